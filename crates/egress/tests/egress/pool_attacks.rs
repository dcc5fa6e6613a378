//! Upstreams that try to have the pool of connections give out more than it may, or the wrong thing.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use freehold_egress::Limits;
use freehold_testkit::tls::Authority;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{
    body::{Frame, Incoming},
    server::conn::http2,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Notify,
};
use tokio_rustls::TlsAcceptor;

use crate::{
    harness::{Kept, PATIENCE, Proxy, read},
    upstream::{Speaks, Upstream},
};

const OPEN: &str = "
- name: api
  type: http
  allow:
    - {domains: [api.test, ws.test, model.test], methods: [GET, HEAD, POST]}
";

/// A server of HTTP/2 whose answers to `/endless` never end, and whose answers to `/slow` come when they are released.
struct Server {
    dialled: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
    release: Arc<Notify>,
    proxy: Proxy,
}

fn acceptor(authority: &Authority, alpn: &[u8]) -> TlsAcceptor {
    let mut config = (*authority.server(&["api.test", "ws.test", "model.test"]).unwrap()).clone();
    config.alpn_protocols = vec![alpn.to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

async fn proxied(authority: &Authority, listener: &TcpListener, limits: impl FnOnce(&mut Limits)) -> Proxy {
    let address = listener.local_addr().unwrap();
    let upstream = Upstream::start(Speaks::Http1).await;
    let proxy = Proxy::start_with(&upstream, |options| {
        options.upstream_roots_pem = vec![authority.pem().to_owned()];
        for name in ["api.test", "ws.test", "model.test"] {
            options.hosts.insert(name.to_owned(), address);
        }
        limits(&mut options.limits);
    })
    .await;
    proxy.publish_with(OPEN, Kept::default());
    proxy
}

impl Server {
    async fn start(limits: impl FnOnce(&mut Limits)) -> Self {
        let authority = Authority::new().unwrap();
        let tls = acceptor(&authority, b"h2");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = proxied(&authority, &listener, limits).await;
        let (dialled, open) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let release = Arc::<Notify>::default();
        let server = Self {
            dialled: Arc::clone(&dialled),
            open: Arc::clone(&open),
            release: Arc::clone(&release),
            proxy,
        };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                dialled.fetch_add(1, Ordering::SeqCst);
                let (tls, open, release) = (tls.clone(), Arc::clone(&open), Arc::clone(&release));
                tokio::spawn(async move {
                    open.fetch_add(1, Ordering::SeqCst);
                    if let Ok(stream) = tls.accept(stream).await {
                        let service = service_fn(move |request| answer(request, Arc::clone(&release)));
                        let _ = http2::Builder::new(TokioExecutor::new())
                            .serve_connection(TokioIo::new(stream), service)
                            .await;
                    }
                    open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        server
    }

    async fn until_open(&self, count: usize) {
        let reached = async {
            while self.open.load(Ordering::SeqCst) != count {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, reached).await.unwrap();
    }
}

async fn answer(
    request: Request<Incoming>,
    release: Arc<Notify>,
) -> Result<Response<BoxBody<Bytes, std::io::Error>>, std::convert::Infallible> {
    let body = match request.uri().path() {
        "/endless" => {
            let first = tokio_stream::once(Ok(Frame::data(Bytes::from_static(b"a"))));
            let rest = tokio_stream::StreamExt::chain(first, tokio_stream::pending());
            BodyExt::boxed(StreamBody::new(rest))
        }
        path => {
            if path == "/slow" {
                release.notified().await;
            }
            Full::new(Bytes::from_static(b"done")).map_err(|never| match never {}).boxed()
        }
    };
    Ok(Response::new(body))
}

fn get(host: &str, path: &str) -> Request<Full<Bytes>> {
    Request::get(format!("https://{host}{path}")).body(Full::default()).unwrap()
}

#[tokio::test]
async fn connections_of_http2_that_are_not_kept_are_as_many_as_there_is_room_for() {
    let server = Server::start(|limits| {
        (limits.upstream_kept_max, limits.upstream_connections_max) = (0, 2);
        limits.upstream_wait_ms = 300;
    })
    .await;
    let mut sender = server.proxy.http2("api.test").await;
    let (mut held, mut statuses) = (Vec::new(), Vec::new());
    for _ in 0..6 {
        let sent = sender.send_request(get("api.test", "/endless"));
        let response = tokio::time::timeout(PATIENCE, sent).await.unwrap().unwrap();
        statuses.push(response.status().as_u16());
        held.push(response);
    }
    let open = server.open.load(Ordering::SeqCst);
    assert!(open <= 2, "{open} connections are open, answers {statuses:?}");
}

#[tokio::test]
async fn a_connection_of_http2_that_is_no_longer_kept_has_its_place_while_an_answer_comes() {
    let server = Server::start(|limits| {
        (limits.upstream_idle_ms, limits.upstream_connections_max) = (100, 1);
        limits.upstream_wait_ms = 300;
    })
    .await;
    let mut sender = server.proxy.http2("api.test").await;
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(sender.send_request(get("api.test", "/endless")).await.unwrap());
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let open = server.open.load(Ordering::SeqCst);
    assert!(open <= 1, "{open} connections are open");
}

#[tokio::test]
async fn requests_share_a_connection_of_http2_before_the_first_of_them_is_answered() {
    let server = Server::start(|_| {}).await;
    let mut sender = server.proxy.http2("api.test").await;
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..5 {
        let sent = sender.send_request(get("api.test", "/slow"));
        waiting.spawn(async move { read(sent.await.unwrap()).await.status });
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    let dialled = server.dialled.load(Ordering::SeqCst);
    server.release.notify_waiters();
    assert_eq!(waiting.join_all().await, [StatusCode::OK; 5]);
    assert_eq!(dialled, 1);
}

#[tokio::test]
async fn a_place_is_given_back_when_a_connection_of_http2_ends() {
    let server = Server::start(|limits| {
        (limits.upstream_connections_max, limits.upstream_idle_ms) = (1, 100);
        limits.upstream_wait_ms = 2_000;
    })
    .await;
    for _ in 0..3 {
        let mut sender = server.proxy.http2("api.test").await;
        let answer = read(sender.send_request(get("api.test", "/a")).await.unwrap()).await;
        assert_eq!(answer.status, StatusCode::OK);
        server.until_open(0).await;
    }
}

/// An upstream of HTTP/1.1 over TLS that accepts and never reads again.
#[tokio::test]
async fn an_upstream_that_never_reads_keeps_no_place_once_its_request_timed_out() {
    let authority = Authority::new().unwrap();
    let tls = acceptor(&authority, b"http/1.1");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = proxied(&authority, &listener, |limits| {
        (limits.upstream_connections_max, limits.upstream_wait_ms) = (1, 1_500);
        limits.response_head_ms = 1_000;
    })
    .await;
    let held = Arc::<Mutex<Vec<_>>>::default();
    let keep = Arc::clone(&held);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if let Ok(stream) = tls.accept(stream).await {
                keep.lock().unwrap().push(stream);
            }
        }
    });
    let body = vec![b'a'; 32 * 1024 * 1024];
    let mut reasons = Vec::new();
    for _ in 0..3 {
        let sent = proxy.send_body("api.test", Request::post("/a"), body.clone());
        match tokio::time::timeout(PATIENCE, sent).await {
            Ok(answer) => reasons.push(answer.reason()),
            Err(_) => reasons.push("none".to_owned()),
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert_eq!(reasons, ["upstream_timeout"; 3]);
}

#[tokio::test]
async fn a_request_has_the_connection_that_became_free_while_it_waited_for_room() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let upstream = Upstream::start(Speaks::Plain).await;
    let proxy = Proxy::start_with(&upstream, |options| {
        (options.limits.upstream_connections_max, options.limits.upstream_wait_ms) = (1, 2_000);
        options.hosts.insert("plain.test".to_owned(), address);
    })
    .await;
    let ask = async |pause: u64| {
        tokio::time::sleep(Duration::from_millis(pause)).await;
        let mut client = proxy.connect_name("plain.test", 80).await;
        client.write_all(b"GET / HTTP/1.1\r\nhost: plain.test\r\n\r\n").await.unwrap();
        let mut head = vec![0; 12];
        tokio::time::timeout(PATIENCE, client.read_exact(&mut head)).await.unwrap().unwrap();
        String::from_utf8(head).unwrap()
    };
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut read = [0; 4096];
                while stream.read(&mut read).await.is_ok_and(|length| length > 0) {
                    tokio::time::sleep(Duration::from_millis(500)).await;
                    stream.write_all(b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n").await.unwrap();
                }
            });
        }
    });
    let (first, second) = tokio::join!(ask(0), ask(100));
    assert_eq!((&*first, &*second), ("HTTP/1.1 202", "HTTP/1.1 202"));
}

/// What an upstream does with a request, by the last digit of its number.
async fn misbehave(stream: &mut TcpStream, id: u64) -> bool {
    let body = format!("id={id}.");
    let whole = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let stray = "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nid=stray.";
    let chunked = format!(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
        body.len()
    );
    let (text, goes_on) = match id % 12 {
        0 => (String::new(), false),
        1 => (whole[..10].to_owned(), false),
        2 => (whole[..whole.len() - 2].to_owned(), false),
        3 => (whole, false),
        4 => (format!("{whole}{stray}"), true),
        5 => (format!("{chunked}{stray}"), true),
        6 => (format!("HTTP/1.1 103 Early Hints\r\n\r\n{whole}"), true),
        7 => (chunked, false),
        8 => (format!("HTTP/1.1 204 No Content\r\n\r\n{stray}"), true),
        _ => (if id.is_multiple_of(2) { whole } else { chunked }, true),
    };
    // In two pieces. What is beyond the answer comes with its end: what comes later may be meant for whatever came meanwhile.
    let (one, two) = text.split_at(text.len() / 3);
    for piece in [one, two] {
        if stream.write_all(piece.as_bytes()).await.is_err() {
            return false;
        }
        if id.is_multiple_of(5) {
            tokio::time::sleep(Duration::from_millis(id % 7)).await;
        }
    }
    if id % 24 == 3 {
        // A reset rather than an end.
        let _ = stream.set_zero_linger();
    }
    goes_on
}

/// Answers requests in every way but the right one, and counts how often each came.
async fn serve_badly(mut stream: TcpStream, seen: Arc<Mutex<HashMap<u64, usize>>>) {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => return,
            }
        }
        let head = String::from_utf8(head).unwrap();
        let id: u64 = head.split(['/', ' ']).nth(2).unwrap().parse().unwrap();
        *seen.lock().unwrap().entry(id).or_default() += 1;
        // Every third is answered before its body was read.
        let is_early = head.starts_with("POST") && id.is_multiple_of(3);
        if head.starts_with("POST") && !is_early && stream.read_exact(&mut [0; 4]).await.is_err() {
            return;
        }
        if !misbehave(&mut stream, id).await || is_early {
            return;
        }
    }
}

/// Asks once, and sees that the answer is of this request, if there is one.
async fn ask_badly(proxy: &Proxy, id: u64) {
    let mut client = proxy.connect_name("plain.test", 80).await;
    let (method, body) = if id.is_multiple_of(2) { ("POST", "abcd") } else { ("GET", "") };
    let text = format!(
        "{method} /{id} HTTP/1.1\r\nhost: plain.test\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    client.write_all(text.as_bytes()).await.unwrap();
    if id.is_multiple_of(11) {
        // It goes away in the middle.
        tokio::time::sleep(Duration::from_millis(id % 4)).await;
        return;
    }
    let mut got = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, client.read_to_end(&mut got)).await.expect("no end");
    let got = String::from_utf8_lossy(&got).into_owned();
    assert!(!got.contains("stray"), "{id}: {got}");
    // It may be cut off, and has nothing of another.
    if let Some((_, given)) = got.split_once("id=") {
        let given = given.split("\r\n").next().unwrap_or_default();
        assert!(format!("{id}.").starts_with(given), "{id}: {got}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_answer_reaches_another_request_and_no_request_comes_twice() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let upstream = Upstream::start(Speaks::Plain).await;
    let proxy = Proxy::start_with(&upstream, |options| {
        options.hosts.insert("plain.test".to_owned(), address);
        options.limits.upstream_idle_ms = 200;
    });
    let proxy = Arc::new(proxy.await);
    let caps = "
- name: plain
  type: http
  allow:
    - {domains: [plain.test], methods: [GET, HEAD, POST], allow_insecure: true}
";
    proxy.publish_with(caps, Kept::default());
    let seen = Arc::<Mutex<HashMap<u64, usize>>>::default();
    let counted = Arc::clone(&seen);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve_badly(stream, Arc::clone(&counted)));
        }
    });
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..12_u64 {
        let proxy = Arc::clone(&proxy);
        clients.spawn(async move {
            for round in 0..120_u64 {
                ask_badly(&proxy, round * 12 * 7 + number * 7 + (round * 5 + number) % 7).await;
            }
        });
    }
    clients.join_all().await;
    let seen = seen.lock().unwrap();
    let twice: Vec<_> = seen.iter().filter(|&(_, &count)| count > 1).map(|(&id, _)| id).collect();
    assert!(seen.len() > 1000 && twice.is_empty(), "{} came, twice: {twice:?}", seen.len());
}

const PREFACE_BYTES: usize = 24;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GO_AWAY: u8 = 7;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const REFUSED: u32 = 7;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

fn go_away(last: u32, code: u32) -> Vec<u8> {
    frame(GO_AWAY, 0, 0, &[last.to_be_bytes(), code.to_be_bytes()].concat())
}

/// What an upstream of HTTP/2 says to a request, by its number, and whether it goes on then.
fn said(id: u64, stream: u32) -> (Vec<u8>, bool) {
    let head = frame(HEADERS, END_HEADERS, stream, &[0x88]);
    let body = frame(DATA, END_STREAM, stream, format!("id={id}.").as_bytes());
    let whole = [head.clone(), body.clone()].concat();
    match id % 12 {
        0 => (Vec::new(), false),
        1 => (go_away(stream, 0), false),
        2 => (go_away(stream, 2), true),
        3 => (go_away(stream.saturating_sub(2), 0), true),
        4 => ([go_away(0, 0), whole].concat(), false),
        5 => (frame(RST_STREAM, 0, stream, &REFUSED.to_be_bytes()), true),
        6 => ([whole.clone(), whole].concat(), true),
        7 => ([go_away(stream, 0), whole].concat(), true),
        8 => ([head, go_away(i32::MAX.cast_unsigned(), 0), body].concat(), true),
        9 => (head, false),
        _ => (whole, true),
    }
}

async fn converse(
    mut stream: tokio_rustls::server::TlsStream<TcpStream>,
    seen: Arc<Mutex<HashMap<u64, usize>>>,
) -> std::io::Result<()> {
    stream.read_exact(&mut [0; PREFACE_BYTES]).await?;
    stream.write_all(&frame(SETTINGS, 0, 0, &[])).await?;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await?;
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        stream.read_exact(&mut payload).await?;
        let id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        match head[3] {
            SETTINGS if head[4] == 0 => stream.write_all(&frame(SETTINGS, 1, 0, &[])).await?,
            DATA if !payload.is_empty() => {
                let number = String::from_utf8(payload).unwrap().parse().unwrap();
                *seen.lock().unwrap().entry(number).or_default() += 1;
                let (bytes, goes_on) = said(number, id);
                stream.write_all(&bytes).await?;
                stream.flush().await?;
                if !goes_on {
                    return Ok(());
                }
            }
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_answer_of_http2_reaches_another_request_and_no_request_comes_twice() {
    let authority = Authority::new().unwrap();
    let tls = acceptor(&authority, b"h2");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = Arc::new(
        proxied(&authority, &listener, |limits| {
            limits.response_head_ms = 500;
            limits.upstream_connections_max = 16;
        })
        .await,
    );
    let seen = Arc::<Mutex<HashMap<u64, usize>>>::default();
    let counted = Arc::clone(&seen);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (tls, seen) = (tls.clone(), Arc::clone(&counted));
            tokio::spawn(async move {
                let Ok(stream) = tls.accept(stream).await else { return };
                let _ = converse(stream, seen).await;
            });
        }
    });
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..6_u64 {
        let proxy = Arc::clone(&proxy);
        clients.spawn(async move {
            let mut sender = proxy.http2("api.test").await;
            for round in 0..80_u64 {
                let id = round * 6 + (number + round) % 6;
                let request =
                    Request::post("https://api.test/a").body(Full::new(Bytes::from(id.to_string())));
                let sent = sender.send_request(request.unwrap());
                if id % 13 == 5 {
                    let _ = tokio::time::timeout(Duration::from_millis(id % 4), sent).await;
                    continue;
                }
                // It may be reset, or its answer cut.
                let Ok(response) = tokio::time::timeout(PATIENCE, sent).await.expect("no answer") else {
                    continue;
                };
                let (head, body) = response.into_parts();
                let Ok(body) = body.collect().await else { continue };
                if head.status == StatusCode::OK {
                    assert_eq!(body.to_bytes(), format!("id={id}."));
                }
            }
        });
    }
    clients.join_all().await;
    let twice: Vec<_> = seen
        .lock()
        .unwrap()
        .iter()
        .filter(|&(_, &count)| count > 1)
        .map(|(&id, &count)| (id, count))
        .collect();
    assert!(twice.is_empty(), "{twice:?}");
    // And no place was lost.
    let mut held = Vec::new();
    for _ in 0..16 {
        let mut sender = proxy.http2("api.test").await;
        let request = Request::post("https://api.test/a").body(Full::new(Bytes::from_static(b"10018")));
        let response = tokio::time::timeout(PATIENCE, sender.send_request(request.unwrap())).await.unwrap();
        held.push(response.unwrap().status());
    }
    assert_eq!(held, [StatusCode::OK; 16]);
}
