//! Connections to upstreams that are used again: what one sends beyond its answer is no other request's.

use http::StatusCode;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::harness::{Kept, PATIENCE, plain_by_hand};

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
