//! Requests that two servers would read differently never reach the upstream as they are.

use std::sync::Arc;

use proptest::{
    strategy::{Strategy, ValueTree},
    test_runner::TestRunner,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    harness::{PATIENCE, Proxy},
    upstream::{Speaks, Upstream},
};

/// Sends raw bytes over TLS and returns the status of the first answer, or an empty text when there is none.
async fn raw(proxy: &Proxy, bytes: &[u8]) -> String {
    let mut stream = proxy.https("api.test").await;
    stream.write_all(bytes).await.unwrap();
    let mut answer = vec![0; 12];
    match tokio::time::timeout(PATIENCE, stream.read_exact(&mut answer)).await.unwrap() {
        Ok(_) => String::from_utf8(answer).unwrap(),
        Err(_) => String::new(),
    }
}

/// How many rows there are of a reason.
fn refused(proxy: &Proxy, reason: &str) -> usize {
    proxy.rows.all().iter().filter(|row| row.reason.as_deref() == Some(reason)).count()
}

#[tokio::test]
async fn a_request_with_an_ambiguous_frame_is_refused_with_a_row() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let proxy = Proxy::start(&upstream).await;
    for (what, head) in [
        ("both lengths", "content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
        (
            "both lengths, the other way round",
            "transfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n0\r\n\r\n",
        ),
        ("two lengths", "content-length: 3\r\ncontent-length: 4\r\n\r\nabc"),
        ("a list of lengths", "content-length: 3, 3\r\n\r\nabc"),
        ("a signed length", "content-length: +3\r\n\r\nabc"),
        ("an unknown coding", "transfer-encoding: xchunked\r\n\r\n0\r\n\r\n"),
        ("a coding after chunked", "transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n"),
        ("a folded header", "x-a: 1\r\n b\r\n\r\n"),
        ("a space before the colon", "transfer-encoding : chunked\r\n\r\n0\r\n\r\n"),
        ("a bare CR", "x-a: 1\rtransfer-encoding: chunked\r\n\r\n"),
        ("a NUL", "x-a: 1\0\r\n\r\n"),
    ] {
        let before = refused(&proxy, "request_malformed");
        let text = format!("POST /open/a HTTP/1.1\r\nhost: api.test\r\n{head}");
        assert_eq!(raw(&proxy, text.as_bytes()).await, "HTTP/1.1 400", "{what}");
        proxy.rows.find(|_| refused(&proxy, "request_malformed") > before).await;
    }
    assert_eq!(upstream.count(), 0);
}

#[tokio::test]
async fn a_bad_chunk_ends_the_request() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let proxy = Proxy::start(&upstream).await;
    for chunks in [
        "zz\r\nabc\r\n0\r\n\r\n",
        "-1\r\nabc\r\n0\r\n\r\n",
        "fffffffffffffffff\r\nabc",
        "3\r\nabcd\r\n0\r\n\r\n",
    ] {
        let text =
            format!("POST /open/a HTTP/1.1\r\nhost: api.test\r\ntransfer-encoding: chunked\r\n\r\n{chunks}");
        let status = raw(&proxy, text.as_bytes()).await;
        assert!(
            status.is_empty() || status.starts_with("HTTP/1.1 4") || status.starts_with("HTTP/1.1 502"),
            "{status}"
        );
    }
    assert_eq!(upstream.count(), 0);
}

#[tokio::test]
async fn a_body_that_looks_like_a_request_stays_a_body() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let proxy = Proxy::start(&upstream).await;
    let inner = "GET /closed HTTP/1.1\r\nhost: api.test\r\n\r\n";
    let text = format!(
        "POST /open/a HTTP/1.1\r\nhost: api.test\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{inner}\r\n0\r\n\r\n",
        inner.len()
    );
    assert_eq!(raw(&proxy, text.as_bytes()).await, "HTTP/1.1 200");
    assert_eq!((upstream.count(), &upstream.last().body[..]), (1, inner.as_bytes()));
}

#[tokio::test]
async fn a_flood_of_headers_is_refused_with_a_row() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let proxy = Proxy::start(&upstream).await;
    let many = "x-a: 1\r\n".repeat(1_000);
    let long = format!("x-a: {}\r\n", "a".repeat(100_000));
    for headers in [many, long] {
        let text = format!("GET /open/a HTTP/1.1\r\nhost: api.test\r\n{headers}\r\n");
        let before = refused(&proxy, "head_too_large");
        assert_eq!(raw(&proxy, text.as_bytes()).await, "HTTP/1.1 431");
        proxy.rows.find(|_| refused(&proxy, "head_too_large") > before).await;
    }
    assert_eq!(upstream.count(), 0);
}

#[tokio::test]
async fn connect_and_trace_are_never_allowed() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let proxy = Proxy::start(&upstream).await;
    for head in ["CONNECT api.test:443 HTTP/1.1", "TRACE /open/a HTTP/1.1", "get /open/a HTTP/1.1"] {
        let text = format!("{head}\r\nhost: api.test\r\n\r\n");
        assert_eq!(raw(&proxy, text.as_bytes()).await, "HTTP/1.1 403", "{head}");
    }
    assert_eq!(upstream.count(), 0);
}

#[tokio::test]
async fn no_damaged_client_hello_harms_the_proxy_or_reaches_the_upstream() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let proxy = Proxy::start_with(&upstream, |options| options.limits.client_handshake_ms = 1_000).await;
    let hello = client_hello();
    let damage = (
        proptest::collection::vec((0..hello.len(), proptest::num::u8::ANY), 1..8),
        0..hello.len(),
        proptest::bool::ANY,
    );
    let mut runner = TestRunner::deterministic();
    for _ in 0..100 {
        let (damage, cut, whole) = damage.new_tree(&mut runner).unwrap().current();
        let mut bytes = hello.clone();
        for (at, byte) in damage {
            bytes[at] = byte;
        }
        // The record's type stays: this is about what is taken for TLS.
        bytes[0] = 0x16;
        bytes.truncate(if whole { bytes.len() } else { cut.max(1) });
        let mut stream = proxy.connect_name("api.test", 443).await;
        stream.write_all(&bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        // An alert, a server's hello or nothing; then the end.
        let mut answer = Vec::new();
        let ended = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
        assert!(ended.is_ok(), "{bytes:?}");
    }
    assert_eq!(upstream.count(), 0);
    assert_eq!(proxy.get("api.test", "/open/after").await.status, http::StatusCode::OK);
}

fn client_hello() -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let name = "api.test".try_into().unwrap();
    let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}
