//! Hostile clients over HTTP/2, frame by frame, and streams that stall.

use std::{io, time::Duration};

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};
use tokio_rustls::client::TlsStream;

use crate::{
    harness::{PATIENCE, Proxy, read},
    upstream::{Speaks, Upstream},
};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GO_AWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// `:method: GET`, `:scheme: https`, `:path: /open/a`, `:authority: api.test`.
const GET: &[u8] = b"\x82\x87\x04\x07/open/a\x01\x08api.test";

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

struct Raw(TlsStream<TcpStream>);

impl Raw {
    async fn open(proxy: &Proxy, settings: &[u8]) -> Self {
        let stream = proxy.connect_name("api.test", 443).await;
        let mut raw = Self(proxy.tls(stream, "api.test", b"h2").await);
        raw.send(PREFACE).await.unwrap();
        raw.send(&frame(SETTINGS, 0, 0, settings)).await.unwrap();
        raw
    }

    async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes).await
    }

    async fn next(&mut self) -> Option<(u8, u32, Vec<u8>)> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).await.ok()?;
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        self.0.read_exact(&mut payload).await.ok()?;
        Some((head[3], u32::from_be_bytes([head[5], head[6], head[7], head[8]]), payload))
    }

    /// Waits for a frame of this kind.
    async fn find(&mut self, kind: u8) -> Option<(u32, Vec<u8>)> {
        let found = async {
            loop {
                match self.next().await {
                    Some((found, stream, payload)) if found == kind => return Some((stream, payload)),
                    Some(_) => {}
                    None => return None,
                }
            }
        };
        tokio::time::timeout(PATIENCE, found).await.expect("neither the frame nor an end")
    }

    /// Sends the same bytes until the other side ends the connection.
    async fn flood(self, bytes: &[u8]) -> bool {
        let (mut reader, mut writer) = tokio::io::split(self.0);
        let mut answer = Vec::new();
        let flood = async { while writer.write_all(bytes).await.is_ok() {} };
        let ended = async {
            tokio::select! {
                _ = reader.read_to_end(&mut answer) => {}
                () = flood => {}
            }
        };
        tokio::time::timeout(PATIENCE, ended).await.is_ok()
    }
}

async fn is_served(proxy: &Proxy) -> bool {
    tokio::time::timeout(PATIENCE, proxy.get("api.test", "/open/after")).await.unwrap().status
        == StatusCode::OK
}

#[tokio::test]
async fn streams_that_are_opened_and_reset_end_the_connection() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let proxy = Proxy::start(&upstream).await;
    let mut raw = Raw::open(&proxy, &[]).await;
    let mut ended = false;
    for stream in (1..200_001).step_by(2) {
        let open = frame(HEADERS, END_STREAM | END_HEADERS, stream, GET);
        let reset = frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes());
        if raw.send(&[open, reset].concat()).await.is_err() {
            ended = true;
            break;
        }
    }
    // Or its last word waits in the buffer.
    assert!(ended || raw.find(GO_AWAY).await.is_some());
    assert!(is_served(&proxy).await);
}

#[tokio::test]
async fn headers_without_end_are_cut() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let proxy = Proxy::start(&upstream).await;
    for (first, next) in [
        // Names and values that are not indexed; then nothing at all, which costs a receiver that counts bytes nothing.
        (GET, &b"\x00\x03x-a\x01b".repeat(1_000)[..]),
        (GET, &b""[..]),
    ] {
        let mut raw = Raw::open(&proxy, &[]).await;
        raw.send(&frame(HEADERS, END_STREAM, 1, first)).await.unwrap();
        assert!(raw.flood(&frame(CONTINUATION, 0, 1, next)).await, "{}", next.len());
    }
    assert_eq!(upstream.count(), 0);
    assert!(is_served(&proxy).await);
}

#[tokio::test]
async fn more_headers_than_the_limit_are_answered_431() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let proxy = Proxy::start(&upstream).await;
    // One entry of the table, referred to again and again: few bytes here, many there.
    let bomb = [GET, b"\x40\x03x-a\x7f\x81\x1e", &[b'b'; 4_000], &[0xbe; 8_000]].concat();
    for headers in [[GET, &b"\x00\x03x-a\x01b".repeat(129)].concat(), bomb] {
        let mut raw = Raw::open(&proxy, &[]).await;
        raw.send(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &headers)).await.unwrap();
        // `:status` as text: 431 is in no table.
        if let Some((_, payload)) = raw.find(HEADERS).await {
            assert!(
                payload.windows(3).any(|text| text == b"431") || payload.starts_with(b"\x48"),
                "{payload:?}"
            );
        }
    }
    assert_eq!(upstream.count(), 0);
    assert!(is_served(&proxy).await);
}

#[tokio::test]
async fn floods_of_frames_that_ask_for_answers_are_held_up_or_cut_and_others_are_served() {
    let upstream = Upstream::start(Speaks::Http1).await;
    // Answers that are read keep a connection, though not for as long as a client likes.
    let proxy = Proxy::start_with(&upstream, |options| {
        options.limits.idle_ms = 3_000;
        options.limits.stalled_ms = 4_000;
    })
    .await;
    let mut floods = JoinSet::new();
    for bytes in [
        frame(PING, 0, 0, &[0; 8]),
        frame(SETTINGS, 0, 0, &[]),
        frame(SETTINGS, 0, 0, &[0, 1, 0xff, 0xff, 0xff, 0xff].repeat(2_000)),
        frame(WINDOW_UPDATE, 0, 0, &0x7fff_ffff_u32.to_be_bytes()),
        frame(0xfa, 0, 0, &[0; 1_000]),
    ] {
        let raw = Raw::open(&proxy, &[]).await;
        floods.spawn(async move { raw.flood(&bytes).await });
    }
    assert!(is_served(&proxy).await);
    assert_eq!(floods.join_all().await, [true; 5]);
}

#[tokio::test]
async fn frames_that_break_the_protocol_end_the_connection() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let proxy = Proxy::start(&upstream).await;
    let open = frame(HEADERS, END_HEADERS, 1, &[GET, b"\x00\x0econtent-length\x013"].concat());
    for bytes in [
        frame(DATA, END_STREAM, 1, b"data of no stream"),
        frame(HEADERS, END_STREAM | END_HEADERS, 2, GET),
        frame(CONTINUATION, END_HEADERS, 1, GET),
        frame(HEADERS, END_STREAM | END_HEADERS, 1, b"\xff\xff\xff\xff\xff\xff"),
        [0xff, 0xff, 0xff, HEADERS, 0, 0, 0, 0, 1].to_vec(),
        // More and less than the length that was given.
        [open.clone(), frame(DATA, END_STREAM, 1, b"abcd")].concat(),
        [open, frame(DATA, END_STREAM, 1, b"ab")].concat(),
    ] {
        let mut raw = Raw::open(&proxy, &[]).await;
        raw.send(&bytes).await.unwrap();
        let cut = async {
            loop {
                match raw.next().await {
                    None | Some((GO_AWAY | RST_STREAM, ..)) => return,
                    // A refusal of what has no meaning is as good.
                    Some((HEADERS, _, payload)) => return assert_ne!(payload.first(), Some(&0x88)),
                    Some(_) => {}
                }
            }
        };
        tokio::time::timeout(PATIENCE, cut).await.unwrap_or_else(|_| panic!("{bytes:?}"));
    }
    assert!(upstream.seen.lock().unwrap().iter().all(|seen| seen.body.is_empty()));
    assert!(is_served(&proxy).await);
}

#[tokio::test]
async fn a_request_of_http2_that_disagrees_with_itself_is_refused() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let proxy = Proxy::start(&upstream).await;
    let mut sender = proxy.http2("api.test").await;
    for (method, uri, host) in [
        (Method::GET, "https://other.test/open/a", None),
        (Method::GET, "http://api.test/open/a", None),
        (Method::GET, "https://api.test:8443/open/a", None),
        (Method::GET, "https://api.test/open/a", Some("other.test")),
        (Method::GET, "https://127.0.0.1/open/a", None),
        (Method::CONNECT, "api.test:443", None),
    ] {
        let mut request = Request::builder().method(method).uri(uri);
        if let Some(host) = host {
            request = request.header("host", host);
        }
        let answer = read(sender.send_request(request.body(Full::default()).unwrap()).await.unwrap()).await;
        assert_eq!(
            (answer.status, answer.reason().as_str()),
            (StatusCode::MISDIRECTED_REQUEST, "authority_mismatch"),
            "{uri}"
        );
    }
    assert_eq!(upstream.count(), 0);
}

#[tokio::test]
async fn a_request_that_is_not_answered_yet_shares_its_upstream_connection_with_the_next() {
    let upstream = Upstream::start(Speaks::Http2).await;
    let proxy = Proxy::start(&upstream).await;
    let mut waiting = Raw::open(&proxy, &[]).await;
    // A POST without an end: the upstream reads a request whole before it answers.
    let post = [b"\x83", &GET[1..]].concat();
    waiting.send(&frame(HEADERS, END_HEADERS, 1, &post)).await.unwrap();
    for _ in 0..3 {
        waiting.send(&frame(DATA, 0, 1, &[b'a'; 16 * 1024])).await.unwrap();
    }
    let is_passed_on =
        async { while !matches!(waiting.next().await.expect("it was closed"), (WINDOW_UPDATE, 1, _)) {} };
    tokio::time::timeout(PATIENCE, is_passed_on).await.expect("nothing of it was passed on");
    let mut other = proxy.http2("api.test").await;
    let request = Request::get("https://api.test/open/a").body(Full::default()).unwrap();
    let answer = tokio::time::timeout(PATIENCE, other.send_request(request)).await.expect("held up");
    assert_eq!(answer.unwrap().status(), StatusCode::OK);
    assert_eq!(upstream.connections.load(std::sync::atomic::Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_stream_whose_client_does_not_read_does_not_hold_up_another() {
    let upstream = Upstream::start(Speaks::Http2).await;
    let proxy = Proxy::start(&upstream).await;
    let body = Bytes::from(vec![b'a'; 8 << 20]);
    let mut stalled = proxy.http2("api.test").await;
    // Sent whole, answered with the same, and the answer is not read: the upstream fills every window there is.
    let request = Request::post("https://api.test/open/big").body(Full::from(body)).unwrap();
    let unread = stalled.send_request(request).await.unwrap();
    let mut other = proxy.http2("api.test").await;
    for size in [1, 300_000, 1_000_000] {
        let request =
            Request::post("https://api.test/open/small").body(Full::from(vec![b'b'; size])).unwrap();
        let answer =
            tokio::time::timeout(PATIENCE, other.send_request(request)).await.expect("held up").unwrap();
        assert_eq!(read(answer).await.body.len(), size);
    }
    assert_eq!(upstream.connections.load(std::sync::atomic::Ordering::SeqCst), 1);
    assert_eq!(read(unread).await.body.len(), 8 << 20);
}

#[tokio::test]
async fn a_window_of_nothing_holds_the_answer_back_and_nothing_else() {
    let upstream = Upstream::start(Speaks::Http2).await;
    let proxy = Proxy::start(&upstream).await;
    // SETTINGS_INITIAL_WINDOW_SIZE 0: the head comes, and of the body not a byte.
    let mut raw = Raw::open(&proxy, &[0, 4, 0, 0, 0, 0]).await;
    raw.send(&frame(HEADERS, END_HEADERS, 1, GET)).await.unwrap();
    raw.send(&frame(DATA, END_STREAM, 1, b"echo")).await.unwrap();
    raw.find(HEADERS).await.unwrap();
    assert!(is_served(&proxy).await);
    raw.send(&frame(WINDOW_UPDATE, 0, 1, &2_u32.to_be_bytes())).await.unwrap();
    assert_eq!(raw.find(DATA).await.unwrap().1, b"ec");
    raw.send(&frame(WINDOW_UPDATE, 0, 1, &2_u32.to_be_bytes())).await.unwrap();
    assert_eq!(raw.find(DATA).await.unwrap().1, b"ho");
}

#[tokio::test]
async fn streams_beyond_the_limit_are_refused() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let proxy = Proxy::start_with(&upstream, |options| options.limits.streams_per_connection_max = 4).await;
    let mut raw = Raw::open(&proxy, &[]).await;
    // None of these ends its request.
    for stream in [1, 3, 5, 7, 9] {
        raw.send(&frame(HEADERS, END_HEADERS, stream, GET)).await.unwrap();
    }
    let (stream, code) = raw.find(RST_STREAM).await.unwrap();
    assert_eq!((stream, &code[..]), (9, &7_u32.to_be_bytes()[..]));
}

#[tokio::test]
async fn a_stream_that_stalls_is_cut_on_a_connection_that_goes_on() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let proxy = Proxy::start_with(&upstream, |options| options.limits.stalled_ms = 3_000).await;
    let mut sender = proxy.http2("api.test").await;
    let request = Request::get("https://api.test/events").body(Full::default()).unwrap();
    let mut events = sender.send_request(request).await.unwrap();
    upstream.events.send(Bytes::from_static(b"data: 1\n\n")).await.unwrap();
    assert!(events.frame().await.unwrap().is_ok());
    let stalled = async {
        let mut pause = tokio::time::interval(Duration::from_millis(50));
        loop {
            tokio::select! {
                frame = events.frame() => return frame,
                _ = pause.tick() => {
                    let request = Request::get("https://api.test/open/a").body(Full::default()).unwrap();
                    assert_eq!(read(sender.send_request(request).await.unwrap()).await.status, StatusCode::OK);
                }
            }
        }
    };
    assert!(tokio::time::timeout(PATIENCE, stalled).await.unwrap().unwrap().is_err());
}

#[tokio::test]
async fn a_websocket_over_a_stream_is_not_offered_and_is_refused() {
    let upstream = Upstream::start(Speaks::Http2).await;
    let proxy = Proxy::start(&upstream).await;
    let mut raw = Raw::open(&proxy, &[]).await;
    let (_, settings) = raw.find(SETTINGS).await.unwrap();
    // Extended CONNECT (RFC 8441) is setting 8.
    assert!(settings.chunks(6).all(|setting| setting[..2] != [0, 8]), "{settings:?}");
    let connect = b"\x02\x07CONNECT\x87\x04\x03/ws\x01\x08api.test\x00\x09:protocol\x09websocket";
    raw.send(&frame(HEADERS, END_HEADERS, 1, connect)).await.unwrap();
    let refused = async {
        loop {
            match raw.next().await {
                None | Some((GO_AWAY | RST_STREAM, ..)) => return,
                Some((HEADERS, _, payload)) => return assert_ne!(payload.first(), Some(&0x88)),
                Some(_) => {}
            }
        }
    };
    tokio::time::timeout(PATIENCE, refused).await.expect("neither a refusal nor an end");
    assert_eq!(upstream.count(), 0);
    assert!(is_served(&proxy).await);
}
