//! Connections that are slow, silent, greedy or ambiguous, and that nobody else suffers from.

use std::time::Duration;

use freehold_api::error::ErrorCode;
use freehold_http::Options;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::context::Context;

/// The longest wait for anything. A test fails here rather than hang.
const WAIT_MAX: Duration = Duration::from_secs(20);
/// Limits that a test can wait for.
const SHORT: Duration = Duration::from_millis(300);

fn short() -> Options {
    Options {
        head_time_max: SHORT,
        body_time_max: SHORT,
        upload_silence_max: SHORT,
        stall_time_max: SHORT,
        ..Options::default()
    }
}

/// A connection on which bytes are written by hand.
struct Raw(TcpStream);

impl Raw {
    async fn open(context: &Context) -> Self {
        let address = context.url.strip_prefix("http://").unwrap();
        Self(timeout(WAIT_MAX, TcpStream::connect(address)).await.unwrap().unwrap())
    }

    async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).await.unwrap();
    }

    /// Everything until the server closes the connection.
    async fn rest(&mut self) -> String {
        let mut bytes = Vec::new();
        // A reset is an end as well.
        let _reset = timeout(WAIT_MAX, self.0.read_to_end(&mut bytes)).await.expect("it is not closed");
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// A whole request, after which the connection closes.
fn request(line: &str, headers: &str) -> String {
    format!("{line} HTTP/1.1\r\nconnection: close\r\n{headers}\r\n")
}

#[tokio::test]
async fn who_does_not_begin_or_end_a_request_s_head_is_let_go() {
    // One place only: whoever comes next is served because the one before was let go.
    let context = Context::with(Options { connections_max: 1, ..short() }).await;
    for begun in ["", "P", "PRI * HTTP/2.0\r\n", "GET /health", "GET /health HTTP/1.1\r\nhost: x\r\nx-slow: "]
    {
        let mut slow = Raw::open(&context).await;
        slow.send(begun).await;
        let mut next = Raw::open(&context).await;
        next.send(request("GET /health", "host: x\r\n")).await;
        assert!(next.rest().await.starts_with("HTTP/1.1 200"), "{begun:?}");
    }
}

#[tokio::test]
async fn a_connection_without_requests_is_closed() {
    let context = Context::with(short()).await;
    let mut idle = Raw::open(&context).await;
    idle.send("GET /health HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(idle.rest().await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_body_that_does_not_come_is_refused() {
    let context = Context::with(short()).await;
    let headers = |kind: &str| {
        format!(
            "host: x\r\nauthorization: Bearer {}\r\ncontent-length: 1000\r\ncontent-type: {kind}\r\n",
            context.owner
        )
    };
    let form = "multipart/form-data; boundary=b";
    let file = "--b\r\ncontent-disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\nbegun";
    for (path, kind, begun, says) in [
        ("/v1/providers", "application/json", "{\"name\":", "the body did not arrive within 0 seconds"),
        ("/v1/tasks", form, "--b\r\n", "nothing came for 0 seconds"),
        ("/v1/tasks", form, file, "nothing came for 0 seconds"),
    ] {
        let mut slow = Raw::open(&context).await;
        slow.send(request(&format!("POST {path}"), &headers(kind)) + begun).await;
        let answer = slow.rest().await;
        assert!(answer.starts_with("HTTP/1.1 400") && answer.contains(says), "{path}: {answer}");
    }
    assert!(context.uploads().is_empty(), "what was begun is gone");
}

#[tokio::test]
async fn who_does_not_read_what_it_is_sent_is_let_go() {
    let context = Context::with(Options { connections_max: 1, ..short() }).await;
    let mut deaf = Raw::open(&context).await;
    // Far more than sockets hold.
    let many = "GET /v1/openapi.json HTTP/1.1\r\nhost: x\r\n\r\n".repeat(300);
    deaf.send(many).await;
    let mut next = Raw::open(&context).await;
    next.send(request("GET /health", "host: x\r\n")).await;
    assert!(next.rest().await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn requests_sent_at_once_are_answered_each_and_in_their_order() {
    let context = Context::new().await;
    let mut raw = Raw::open(&context).await;
    let one = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
    let all =
        [one("/health"), one("/v1/nothing"), one("/v1/me/session"), request("GET /health", "host: x\r\n")];
    raw.send(all.concat()).await;
    let answers = raw.rest().await;
    let statuses: Vec<&str> =
        answers.match_indices("HTTP/1.1 ").map(|(at, _)| &answers[at + 9..at + 12]).collect();
    assert_eq!(statuses, ["200", "404", "401", "200"]);
    let mut ids: Vec<&str> = answers.lines().filter_map(|line| line.strip_prefix("x-request-id: ")).collect();
    ids.dedup();
    assert_eq!(ids.len(), 4);
}

#[tokio::test]
async fn requests_that_can_be_read_in_two_ways_are_refused() {
    let context = Context::new().await;
    let key = format!("authorization: Bearer {}\r\n", context.owner);
    let json = "content-type: application/json\r\n";
    for (what, headers, body) in [
        ("two lengths", format!("host: x\r\n{key}{json}content-length: 2\r\ncontent-length: 3\r\n"), "{}"),
        ("no length", format!("host: x\r\n{key}{json}content-length: -1\r\n"), "{}"),
        (
            "two callers",
            format!("host: x\r\n{key}authorization: Bearer {}\r\n{json}content-length: 2\r\n", context.ann),
            "{}",
        ),
        (
            "a broken chunk",
            format!("host: x\r\n{key}{json}transfer-encoding: chunked\r\n"),
            "zz\r\n{}\r\n0\r\n\r\n",
        ),
        ("a strange coding", format!("host: x\r\n{key}{json}transfer-encoding: gzip\r\n"), "{}"),
    ] {
        let mut raw = Raw::open(&context).await;
        raw.send(request("POST /v1/providers", &headers) + body).await;
        let answer = raw.rest().await;
        assert!(answer.starts_with("HTTP/1.1 4"), "{what}: {answer}");
        assert!(!answer.contains("\"fields\""), "{what} was read: {answer}");
    }
    // A length beside chunks is left out of account, and what looks like a second request is none.
    let smuggled = "0\r\n\r\nGET /v1/me/session HTTP/1.1\r\nhost: x\r\n\r\n";
    let mut raw = Raw::open(&context).await;
    let headers =
        format!("host: x\r\n{key}{json}content-length: {}\r\ntransfer-encoding: chunked\r\n", smuggled.len());
    raw.send(request("POST /v1/providers", &headers) + smuggled).await;
    assert_eq!(raw.rest().await.matches("HTTP/1.1 ").count(), 1);
}

#[tokio::test]
async fn no_answer_depends_on_the_host_that_was_asked_for() {
    let context = Context::new().await;
    let key = format!("authorization: Bearer {}\r\n", context.owner);
    for path in ["/v1/config", "/v1/openapi.json", "/v1/docs", "/v1/nothing"] {
        for (line, host) in [
            (format!("GET {path}"), "host: evil.test\r\n"),
            (format!("GET http://evil.test{path}"), "host: x\r\n"),
            (
                format!("GET {path}"),
                "host: x\r\nx-forwarded-host: evil.test\r\nforwarded: host=evil.test\r\n",
            ),
        ] {
            let mut raw = Raw::open(&context).await;
            raw.send(request(&line, &format!("{host}{key}"))).await;
            let answer = raw.rest().await;
            assert!(!answer.contains("evil.test"), "{line}: {answer}");
            let expected = if path == "/v1/nothing" { "HTTP/1.1 404" } else { "HTTP/1.1 200" };
            assert!(answer.starts_with(expected), "{line}: {answer}");
        }
    }
    for path in [
        "//v1/me/session",
        "/v1/../v1/me/session",
        "/v1/%2e%2e/v1/me/session",
        "/v1/me/session/",
        "/V1/me/session",
    ] {
        let mut raw = Raw::open(&context).await;
        raw.send(request(&format!("GET {path}"), &format!("host: x\r\n{key}"))).await;
        assert!(raw.rest().await.starts_with("HTTP/1.1 404"), "{path}");
    }
}

#[tokio::test]
async fn an_idempotency_key_is_its_caller_s_own_and_of_one_request() {
    let context = Context::new().await;
    context.role().await;
    let send = async |key: &str, body: Value| {
        let request = context.request(Method::POST, "/v1/workspaces", key).header("Idempotency-Key", "same");
        context.send(request.json(&body)).await
    };
    let body = json!({ "role_name": "worker" });
    let of_ann = send(&context.ann, body.clone()).await.ok();
    let of_bob = send(&context.bob, body.clone()).await.ok();
    assert_ne!(of_ann["id"], of_bob["id"]);
    assert_eq!(send(&context.ann, body.clone()).await.ok()["id"], of_ann["id"]);
    let other = json!({ "role_name": "worker", "environment": "other" });
    send(&context.ann, other).await.refused(ErrorCode::IdempotencyConflict);
    let at_once = futures::future::join_all((0..50).map(|_| {
        let request =
            context.request(Method::POST, "/v1/workspaces", &context.ann).header("Idempotency-Key", "once");
        context.send(request.json(&body))
    }));
    let mut ids: Vec<String> = at_once.await.into_iter().map(|reply| reply.ok()["id"].to_string()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 1);
    let twice = context.request(Method::POST, "/v1/workspaces", &context.ann);
    let twice = twice.header("Idempotency-Key", "one").header("Idempotency-Key", "two").json(&body);
    context.send(twice).await.refused_fields(&["Idempotency-Key"]);
    let long = "x".repeat(256);
    for (key, is_good) in [
        (&b"!~"[..], true),
        (&long.as_bytes()[..255], true),
        (long.as_bytes(), false),
        (b"", false),
        (b"a\tb", false),
        (b"a b", false),
        (b"a\x80b", false),
        ("\u{e9}".as_bytes(), false),
    ] {
        let key = reqwest::header::HeaderValue::from_bytes(key).unwrap();
        let request =
            context.request(Method::POST, "/v1/workspaces", &context.ann).header("Idempotency-Key", &key);
        let reply = context.send(request.json(&body)).await;
        if is_good {
            reply.ok();
        } else {
            reply.refused_fields(&["Idempotency-Key"]);
        }
    }
}

#[tokio::test]
async fn a_key_in_the_query_opens_nothing_but_streams() {
    let context = Context::new().await;
    for path in ["/v1/me/session", "/v1/workspaces", "/v1/config", "/v1/credentials", "/v1/sessions"] {
        let request = context.anonymous(Method::GET, &format!("{path}?api_key={}", context.owner));
        let reply = context.send(request).await;
        assert!(reply.status == 401 || reply.status == 400, "{path}: {}", reply.text);
        assert!(!reply.text.contains(&context.owner), "{path}");
    }
}

/// HTTP/2 by hand: the preface, and empty settings.
fn preface() -> Vec<u8> {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(4, 0, 0, &[]));
    bytes
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

#[tokio::test]
async fn http2_is_served_and_streams_that_are_reset_at_once_end_their_connection_only() {
    let context = Context::new().await;
    let client = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
    let health = format!("{}/health", context.url);
    let answer = client.get(&health).send().await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.version()), (200, reqwest::Version::HTTP_2));
    let mut raw = Raw::open(&context).await;
    raw.send(preface()).await;
    // `GET http://x/`, ended, and reset in the same breath.
    let head = [0x82, 0x86, 0x84, 0x41, 1, b'x'];
    let mut storm = Vec::new();
    for stream in (1..20_000).step_by(2) {
        storm.extend(frame(1, 5, stream, &head));
        storm.extend(frame(3, 0, stream, &8_u32.to_be_bytes()));
    }
    // The server may close while it is written to.
    let _closed = raw.0.write_all(&storm).await;
    raw.rest().await;
    assert_eq!(client.get(&health).send().await.unwrap().status(), 200);
    // A list of headers without end is refused too.
    let mut raw = Raw::open(&context).await;
    raw.send(preface()).await;
    let _closed = raw.0.write_all(&frame(1, 1, 1, &head)).await;
    for _ in 0..10_000 {
        if raw.0.write_all(&frame(9, 0, 1, &[0x40, 1, b'a', 1, b'b'].repeat(100))).await.is_err() {
            break;
        }
    }
    raw.rest().await;
    assert_eq!(client.get(&health).send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn an_upload_that_is_refused_is_answered_before_it_came_and_the_answer_can_be_read_after_it() {
    let context = Context::new().await;
    const FORM_BYTES: usize = 8 * 1024 * 1024;
    let part = "--b\r\ncontent-disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\n";
    let form = "multipart/form-data; boundary=b";
    for (key, kind, status) in [
        ("sk_nobody", form, "401"),
        (context.owner.as_str(), "text/plain", "415"),
        (context.owner.as_str(), "multipart/form-data; boundary=other", "400"),
    ] {
        let headers = format!(
            "host: x\r\nauthorization: Bearer {key}\r\ncontent-length: {FORM_BYTES}\r\ncontent-type: {kind}\r\n"
        );
        // What does not look like a form at all is refused once a head of a part would be too long.
        let begun = part.to_owned() + &"x".repeat(64 * 1024);
        let mut raw = Raw::open(&context).await;
        raw.send(format!("POST /v1/tasks HTTP/1.1\r\n{headers}\r\n{begun}")).await;
        // The rest is not sent yet: whoever waits for it does not answer.
        let mut answer = vec![0; 4096];
        let read =
            timeout(Duration::from_secs(4), raw.0.read(&mut answer)).await.expect("it waits for the form");
        let answer = String::from_utf8_lossy(&answer[..read.unwrap()]).into_owned();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
        assert!(answer.contains("connection: close"), "{answer}");

        // A client that reads nothing before it has sent all.
        let mut raw = Raw::open(&context).await;
        raw.send(format!("POST /v1/tasks HTTP/1.1\r\n{headers}\r\n{begun}")).await;
        raw.send(vec![b'x'; FORM_BYTES - begun.len()]).await;
        let answer = raw.rest().await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
    }
    // What is short and here already leaves the connection open for the next request.
    let mut raw = Raw::open(&context).await;
    let small = "host: x\r\nauthorization: Bearer sk_nobody\r\ncontent-type: application/json\r\ncontent-length: 2\r\n";
    raw.send(format!("POST /v1/tasks HTTP/1.1\r\n{small}\r\n{{}}{}", request("GET /health", "host: x\r\n")))
        .await;
    let answers = raw.rest().await;
    assert!(answers.starts_with("HTTP/1.1 401") && answers.contains("HTTP/1.1 200"), "{answers}");
}

/// A connection from another loopback address.
async fn open_from(context: &Context, address: &str) -> Raw {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(address.parse().unwrap()).unwrap();
    let server = context.url.strip_prefix("http://").unwrap().parse().unwrap();
    Raw(timeout(WAIT_MAX, socket.connect(server)).await.unwrap().unwrap())
}

/// Whether a connection is served. It stays open.
async fn is_served(raw: &mut Raw) -> bool {
    if raw.0.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n").await.is_err() {
        return false;
    }
    let mut answer = [0; 12];
    let read = timeout(WAIT_MAX, raw.0.read_exact(&mut answer)).await.expect("neither served nor closed");
    read.is_ok() && answer.starts_with(b"HTTP/1.1 200")
}

#[tokio::test]
async fn one_peer_has_so_many_connections_and_fewer_that_say_nothing_and_others_have_theirs() {
    let context = Context::with(Options { connections_per_peer_max: Some(8), ..Options::default() }).await;
    let (one, other) = ("127.0.0.7:0", "127.0.0.8:0");
    let mut open = Vec::new();
    for _ in 0..2 {
        open.push(open_from(&context, one).await);
    }
    assert!(!is_served(&mut open_from(&context, one).await).await, "two are silent already");
    assert!(is_served(&mut open_from(&context, other).await).await);
    for raw in &mut open {
        assert!(is_served(raw).await);
    }
    while open.len() < 8 {
        let mut next = open_from(&context, one).await;
        assert!(is_served(&mut next).await, "{}", open.len());
        open.push(next);
    }
    assert!(!is_served(&mut open_from(&context, one).await).await, "eight are open");
    assert!(is_served(&mut open_from(&context, other).await).await);
    // A place that is given back is another one's; that it was is seen a moment later.
    open.pop();
    let given_back = async { while !is_served(&mut open_from(&context, one).await).await {} };
    timeout(WAIT_MAX, given_back).await.expect("no place is given back");
}

#[tokio::test]
async fn a_connection_of_http2_without_streams_is_closed_and_one_with_a_stream_is_not() {
    let heartbeat = SHORT / 2;
    let context =
        Context::with(Options { idle_time_max: SHORT, sse_heartbeat: heartbeat, ..Options::default() }).await;
    let mut idle = Raw::open(&context).await;
    idle.send(preface()).await;
    let mut had_a_request = Raw::open(&context).await;
    had_a_request.send(preface()).await;
    had_a_request.send(frame(1, 5, 1, &[0x82, 0x86, 0x84, 0x41, 1, b'x'])).await;
    tokio::join!(idle.rest(), had_a_request.rest());
    let client = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
    let stream = client.get(format!("{}/v1/activity/stream", context.url)).bearer_auth(&context.owner);
    let mut stream = stream.send().await.unwrap();
    let mut heartbeats = 0;
    // Four of them take twice the time.
    while heartbeats < 5 {
        let chunk = timeout(WAIT_MAX, stream.chunk()).await.unwrap().unwrap().expect("the stream was ended");
        heartbeats += String::from_utf8_lossy(&chunk).matches(": heartbeat").count();
    }
}
