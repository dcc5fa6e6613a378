//! Upstreams of HTTP/1.1 that do not keep to it: what one sends beyond its answer is no other request's, and an answer has one end.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use freehold_egress::Limits;
use http::StatusCode;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};

use crate::{
    harness::{Kept, PATIENCE, Proxy, plain_by_hand},
    upstream::{Speaks, Upstream},
};

const OPEN: &str = "
- name: plain
  type: http
  allow:
    - {domains: [plain.test], methods: [GET, HEAD, POST], allow_insecure: true}
";

/// Reads one head.
async fn head(stream: &mut (impl AsyncReadExt + Unpin)) -> String {
    let mut read = Vec::new();
    while !read.ends_with(b"\r\n\r\n") {
        read.push(tokio::time::timeout(PATIENCE, stream.read_u8()).await.unwrap().unwrap());
    }
    String::from_utf8(read).unwrap()
}

async fn accepted(listener: &TcpListener) -> TcpStream {
    tokio::time::timeout(PATIENCE, listener.accept()).await.unwrap().unwrap().0
}

#[tokio::test]
async fn what_an_upstream_sends_beyond_its_answer_is_no_later_requests_answer() {
    let stray = "HTTP/1.1 200 OK\r\nx-stray: 1\r\ncontent-length: 0\r\n\r\n";
    for (method, answer) in [
        ("GET", "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"),
        ("GET", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
        ("GET", "HTTP/1.1 204 No Content\r\ncontent-length: 4\r\n\r\n"),
        ("GET", "HTTP/1.1 304 Not Modified\r\ncontent-length: 4\r\n\r\n"),
        ("GET", "HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 0\r\n\r\n"),
        ("HEAD", "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n"),
        ("HEAD", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"),
    ] {
        for late in [false, true] {
            let (proxy, listener, mut client) = plain_by_hand().await;
            proxy.publish_with(OPEN, Kept::default());
            let request = format!("{method} /a HTTP/1.1\r\nhost: plain.test\r\n\r\n");
            client.write_all(request.as_bytes()).await.unwrap();
            let mut first = accepted(&listener).await;
            head(&mut first).await;
            if late {
                first.write_all(answer.as_bytes()).await.unwrap();
                head(&mut client).await;
                first.write_all(stray.as_bytes()).await.unwrap();
                // The proxy has seen it when it has ended the connection.
                let _ = tokio::time::timeout(PATIENCE, first.read_u8()).await.expect("it is kept");
            } else {
                first.write_all(format!("{answer}{stray}").as_bytes()).await.unwrap();
                head(&mut client).await;
            }
            if answer.contains("chunked") && method == "GET" {
                let mut end = [0; 5];
                tokio::time::timeout(PATIENCE, client.read_exact(&mut end)).await.unwrap().unwrap();
            }
            client.write_all(b"GET /b HTTP/1.1\r\nhost: plain.test\r\n\r\n").await.unwrap();
            let mut second = accepted(&listener).await;
            assert!(head(&mut second).await.starts_with("GET /b "));
            second.write_all(b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            let got = head(&mut client).await;
            let status = StatusCode::ACCEPTED.as_str();
            assert!(got.contains(status) && !got.contains("stray"), "{method} {answer} {late}: {got}");
        }
    }
}

#[tokio::test]
async fn a_connection_whose_request_was_answered_before_its_end_carries_no_other() {
    let (_proxy, listener, mut client) = plain_by_hand().await;
    let request = "GET /a HTTP/1.1\r\nhost: plain.test\r\ncontent-length: 40\r\n\r\nGET /c HTTP/1.1\r\n";
    client.write_all(request.as_bytes()).await.unwrap();
    let mut first = accepted(&listener).await;
    head(&mut first).await;
    first.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    head(&mut client).await;
    drop(client);
    let mut rest = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, first.read_to_end(&mut rest)).await.expect("it is kept");
    assert_eq!(String::from_utf8_lossy(&rest), "GET /c HTTP/1.1\r\n");
}

#[tokio::test]
async fn a_server_that_agrees_to_no_protocol_is_dialled_twice_and_no_more() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let upstream = Upstream::start(Speaks::Http1).await;
    let proxy = Proxy::start_with(&upstream, |options| {
        options.hosts.insert("api.test".to_owned(), address);
    })
    .await;
    let dialled = Arc::<AtomicUsize>::default();
    let counter = Arc::clone(&dialled);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            counter.fetch_add(1, Ordering::SeqCst);
            let _ = stream.read(&mut [0; 4096]).await;
            // A fatal alert: no_application_protocol.
            let _ = stream.write_all(&[21, 3, 3, 0, 2, 2, 120]).await;
        }
    });
    assert_eq!(proxy.get("api.test", "/open/a").await.reason(), "upstream_tls");
    assert_eq!(dialled.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn an_answer_with_more_than_one_length_has_one_for_its_client() {
    for (lengths, chunks, body) in [
        ("content-length: 1\r\ntransfer-encoding: chunked", "3\r\nabc\r\n0\r\n\r\n", "3\r\nabc\r\n0\r\n\r\n"),
        ("content-length: 3, 3", "abc", "abc"),
        ("content-length: 3\r\ncontent-length: 3", "abc", "abc"),
    ] {
        let (_proxy, listener, mut client) = plain_by_hand().await;
        let request = "GET /a HTTP/1.1\r\nhost: plain.test\r\nconnection: close\r\n\r\n";
        client.write_all(request.as_bytes()).await.unwrap();
        let mut upstream = accepted(&listener).await;
        head(&mut upstream).await;
        let answer = format!("HTTP/1.1 200 OK\r\n{lengths}\r\n\r\n{chunks}");
        upstream.write_all(answer.as_bytes()).await.unwrap();
        let mut got = String::new();
        tokio::time::timeout(PATIENCE, client.read_to_string(&mut got)).await.unwrap().unwrap();
        let (head, rest) = got.split_once("\r\n\r\n").unwrap();
        let is_chunked = head.contains("transfer-encoding: chunked");
        assert!(is_chunked != head.contains("\r\ncontent-length: 3\r\n"), "{lengths}: {head}");
        assert_eq!((head.matches("length").count(), rest), (usize::from(!is_chunked), body), "{lengths}");
    }
}

/// A server that answers each request, and closes after the first unless it keeps its connections. Counts those that there were,
/// and those that are open.
fn counted(listener: TcpListener, keeps: bool) -> (Arc<AtomicUsize>, watch::Receiver<usize>) {
    let (dialled, (open, opened)) = (Arc::<AtomicUsize>::default(), watch::channel(0));
    let counter = Arc::clone(&dialled);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            counter.fetch_add(1, Ordering::SeqCst);
            open.send_modify(|open| *open += 1);
            let open = open.clone();
            tokio::spawn(async move {
                let mut read = [0; 4096];
                while stream.read(&mut read).await.is_ok_and(|length| length > 0) {
                    stream.write_all(b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n").await.unwrap();
                    if !keeps {
                        break;
                    }
                }
                drop(stream);
                open.send_modify(|open| *open -= 1);
            });
        }
    });
    (dialled, opened)
}

async fn until(open: &mut watch::Receiver<usize>, count: usize) {
    tokio::time::timeout(PATIENCE, open.wait_for(|open| *open == count)).await.unwrap().unwrap();
}

/// A proxy with these limits, and a listener where `plain.test` is.
async fn plain(limits: impl FnOnce(&mut Limits)) -> (Proxy, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let proxy = Proxy::start_with(&Upstream::start(Speaks::Plain).await, |options| {
        limits(&mut options.limits);
        options.hosts.insert("plain.test".to_owned(), address);
    })
    .await;
    proxy.publish_with(OPEN, Kept::default());
    (proxy, listener)
}

async fn ask(client: &mut TcpStream) {
    client.write_all(b"GET / HTTP/1.1\r\nhost: plain.test\r\n\r\n").await.unwrap();
    assert!(head(client).await.contains("202"));
}

#[tokio::test]
async fn a_connection_that_nobody_asked_for_long_is_closed_and_the_next_request_has_another() {
    let (proxy, listener) = plain(|limits| limits.upstream_idle_ms = 100).await;
    let (dialled, mut open) = counted(listener, true);
    let mut client = proxy.connect_name("plain.test", 80).await;
    for round in 1..=2 {
        ask(&mut client).await;
        until(&mut open, 0).await;
        assert_eq!(dialled.load(Ordering::SeqCst), round);
    }
}

#[tokio::test]
async fn a_request_for_which_a_closed_connection_was_kept_goes_out_on_another() {
    let (proxy, listener) = plain(|_| {}).await;
    let (dialled, mut open) = counted(listener, false);
    let mut client = proxy.connect_name("plain.test", 80).await;
    for round in 1..=20 {
        ask(&mut client).await;
        until(&mut open, 0).await;
        assert_eq!(dialled.load(Ordering::SeqCst), round);
    }
}

#[tokio::test]
async fn of_many_connections_that_are_free_so_many_are_kept_as_configured() {
    let (proxy, listener) = plain(|limits| limits.upstream_idle_max = 1).await;
    let mut pairs = Vec::new();
    for _ in 0..4 {
        let mut client = proxy.connect_name("plain.test", 80).await;
        client.write_all(b"GET / HTTP/1.1\r\nhost: plain.test\r\n\r\n").await.unwrap();
        pairs.push((client, accepted(&listener).await));
    }
    for (client, upstream) in &mut pairs {
        head(upstream).await;
        upstream.write_all(b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        assert!(head(client).await.contains("202"));
    }
    // With each that is put back, of those that are free then all but one go: in the end the last stays, and one beside it.
    for (_, upstream) in &mut pairs[..2] {
        assert!(tokio::time::timeout(PATIENCE, upstream.read_u8()).await.unwrap().is_err());
    }
    let (client, upstream) = &mut pairs[3];
    client.write_all(b"GET / HTTP/1.1\r\nhost: plain.test\r\n\r\n").await.unwrap();
    head(upstream).await;
}

#[tokio::test]
async fn connections_that_wait_for_requests_are_so_many_however_many_hosts_there_are() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let upstream = Upstream::start(Speaks::Plain).await;
    let hosts: Vec<_> = (0..12).map(|n| format!("h{n}.many.test")).collect();
    let proxy = Proxy::start_with(&upstream, |options| {
        options.limits.upstream_kept_max = 4;
        options.hosts.extend(hosts.iter().map(|host| (host.clone(), address)));
    })
    .await;
    let caps = OPEN.replace("plain.test", "'*.many.test'");
    proxy.publish_with(&caps, Kept::default());
    let (dialled, mut open) = counted(listener, true);
    // The first come again, on connections that were kept.
    for host in hosts.iter().chain(&hosts[..4]) {
        let mut client = proxy.connect_name(host, 80).await;
        client.write_all(format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n").as_bytes()).await.unwrap();
        assert!(head(&mut client).await.contains("202"), "{host}");
    }
    assert_eq!(dialled.load(Ordering::SeqCst), hosts.len());
    until(&mut open, 4).await;
}

#[tokio::test]
async fn requests_wait_for_upstream_connections_of_which_there_are_so_many_at_once() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let upstream = Upstream::start(Speaks::Plain).await;
    let proxy = Proxy::start_with(&upstream, |options| {
        (options.limits.upstream_kept_max, options.limits.upstream_connections_max) = (0, 2);
        options.hosts.insert("plain.test".to_owned(), address);
    })
    .await;
    let (at_once, most) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let (pairs, counted) = (Arc::new(tokio::sync::Barrier::new(2)), Arc::clone(&most));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (at_once, most, pairs) = (Arc::clone(&at_once), Arc::clone(&counted), Arc::clone(&pairs));
            tokio::spawn(async move {
                head(&mut stream).await;
                most.fetch_max(at_once.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                pairs.wait().await;
                at_once.fetch_sub(1, Ordering::SeqCst);
                stream.write_all(b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n").await.unwrap();
                let _ = stream.read_u8().await;
            });
        }
    });
    let mut clients = Vec::new();
    for _ in 0..8 {
        let mut client = proxy.connect_name("plain.test", 80).await;
        client.write_all(b"GET / HTTP/1.1\r\nhost: plain.test\r\n\r\n").await.unwrap();
        clients.push(client);
    }
    for mut client in clients {
        assert!(head(&mut client).await.contains("202"));
    }
    assert_eq!(most.load(Ordering::SeqCst), 2);
}
