//! Rules that look into bodies, of requests and of responses.

use http::{Request, StatusCode, Version};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Bytes, Frame};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    harness::{Answer, Kept, Proxy, read, under},
    upstream::{Speaks, Upstream},
};

const CAPS: &str = r#"
- name: api
  type: http
  allow:
    - name: orders
      domains: [api.test]
      methods: [POST]
      paths: [/orders]
      when: request.body.amount <= 10
      body:
        content_types: [application/json]
        max_bytes: 1000
        schema: {type: object, required: [amount], additionalProperties: false, properties: {amount: {type: integer}}}
    - name: upload
      domains: [api.test]
      methods: [PUT]
      paths: [/upload]
      body: {max_bytes: 1000}
    - name: graphql
      domains: [api.test]
      methods: [POST]
      paths: [/graphql]
      when: request.graphql.type == "query" && request.graphql.fields.all(f, f in ["me", "issues"])
    - name: tools
      domains: [api.test]
      methods: [POST]
      paths: [/mcp]
      when: request.mcp.method != "tools/call" || (request.mcp.tool == "search" && request.mcp.arguments.q != "")
    - name: call
      domains: [api.test]
      methods: [POST]
      paths: ["/a.v1.*/*"]
      when: request.grpc.service == "a.v1.Reader"
    - name: checked
      domains: [api.test]
      methods: [PUT]
      paths: [/checked]
      response:
        status: [2xx]
        content_types: [application/json]
        max_bytes: 1000
        when: response.body.open && response.headers["content-type"].startsWith("application/json")
    - name: bounded
      domains: [api.test]
      methods: [PUT]
      paths: [/bounded]
      response: {max_bytes: 1000}
  deny:
    - name: no-root
      domains: [api.test]
      paths: [/mcp]
      when: request.mcp.arguments.q == "root"
"#;

fn json(method: &str, path: &str) -> http::request::Builder {
    Request::builder().method(method).uri(path).header("content-type", "application/json")
}

/// The status, and the reason where it was denied.
fn told(answer: &Answer) -> (u16, String) {
    let reason = if answer.status == StatusCode::OK { String::new() } else { answer.reason() };
    (answer.status.as_u16(), reason)
}

/// A body without a length, in pieces of 100 bytes.
pub async fn stream(proxy: &Proxy, version: Version, request: http::request::Builder, body: &str) -> Answer {
    let pieces: Vec<_> = body
        .as_bytes()
        .chunks(100)
        .map(|piece| Ok::<_, std::io::Error>(Frame::data(Bytes::copy_from_slice(piece))))
        .collect();
    let request = request.body(BodyExt::boxed(StreamBody::new(tokio_stream::iter(pieces)))).unwrap();
    let stream = proxy.connect_name("api.test", 443).await;
    if version == Version::HTTP_2 {
        let stream = TokioIo::new(proxy.tls(stream, "api.test", b"h2").await);
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
        tokio::spawn(connection);
        read(sender.send_request(request).await.unwrap()).await
    } else {
        let stream = TokioIo::new(proxy.tls(stream, "api.test", b"http/1.1").await);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        read(sender.send_request(request).await.unwrap()).await
    }
}

#[tokio::test]
async fn a_body_is_held_against_its_rule_and_passed_on_as_it_was() {
    let (upstream, proxy) = under(CAPS, Speaks::Http1).await;
    let good = r#"{ "amount":  7 }"#;
    assert_eq!(proxy.send_body("api.test", json("POST", "/orders"), good).await.status, StatusCode::OK);
    assert_eq!(upstream.last().body, good);
    let row = proxy.rows.with_reason("rule_matched").await;
    assert_eq!((row.validations_applied, row.transforms_applied), (Some(1), Some(0)));
    for (body, reason) in [
        (r#"{"amount": 11}"#, "condition_not_met"),
        (r#"{"amount": "7"}"#, "body_invalid"),
        (r#"{"amount": 7.5}"#, "body_invalid"),
        (r#"{"amount": 7, "more": 1}"#, "body_invalid"),
        (r#"{"amount": 7, "amount": 8}"#, "body_unreadable"),
        (r#"{"amount": 7, "Amount": 1000}"#, "body_unreadable"),
        (r#"{"amount": 7"#, "body_unreadable"),
        (&format!(r#"{{"amount": {}7}}"#, " ".repeat(1000)), "body_too_large"),
    ] {
        let answer = proxy.send_body("api.test", json("POST", "/orders"), body.to_owned()).await;
        assert_eq!(told(&answer), (403, reason.to_owned()), "{body}");
    }
    let other = Request::post("/orders").header("content-type", "text/plain");
    let answer = proxy.send_body("api.test", other, good).await;
    assert_eq!(told(&answer), (403, "content_type_not_allowed".to_owned()));
    let coded = json("POST", "/orders").header("content-encoding", "gzip");
    assert_eq!(told(&proxy.send_body("api.test", coded, good).await).1, "body_unreadable");
    assert_eq!(upstream.count(), 1);
    let row = proxy.rows.with_reason("body_invalid").await;
    assert!(row.detail.unwrap()["body"].as_str().unwrap().contains("amount"));
    let row = proxy.rows.with_reason("body_unreadable").await;
    assert_eq!(row.detail.unwrap()["body"], "servers read it in different ways");
}

#[tokio::test]
async fn a_body_without_a_length_is_read_whole_and_its_trailers_follow() {
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let (upstream, proxy) = under(CAPS, Speaks::Http2).await;
        let uri = if version == Version::HTTP_2 { "https://api.test/orders" } else { "/orders" };
        let mut request = json("POST", uri);
        if version == Version::HTTP_11 {
            request = request.header("host", "api.test");
        }
        let body = format!(r#"{{"amount": {}7}}"#, " ".repeat(500));
        assert_eq!(stream(&proxy, version, request, &body).await.status, StatusCode::OK);
        assert_eq!(upstream.last().body, body);
    }
}

#[tokio::test]
async fn a_body_that_is_only_bounded_streams_and_is_cut_where_it_is_too_long() {
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let (upstream, proxy) = under(CAPS, Speaks::Http1).await;
        let request = || {
            let builder =
                Request::put(if version == Version::HTTP_2 { "https://api.test/upload" } else { "/upload" });
            if version == Version::HTTP_11 { builder.header("host", "api.test") } else { builder }
        };
        let most = "x".repeat(1000);
        assert_eq!(stream(&proxy, version, request(), &most).await.status, StatusCode::OK);
        assert_eq!(upstream.last().body, most);
        let answer = stream(&proxy, version, request(), &"x".repeat(1001)).await;
        assert_eq!(told(&answer), (403, "body_too_large".to_owned()));
        assert_eq!(upstream.count(), 1);
        let row = proxy.rows.with_reason("body_too_large").await;
        assert_eq!(row.phase.as_deref(), Some("request_body"));
        let first = row.detail.unwrap()["decision_id"].as_str().unwrap().to_owned();
        assert!(proxy.rows.all().iter().any(|row| row.id.to_string() == first));
    }
    let (upstream, proxy) = under(CAPS, Speaks::Http1).await;
    let answer = proxy.send_body("api.test", Request::put("/upload"), "x".repeat(1001)).await;
    assert_eq!((told(&answer).1.as_str(), upstream.count()), ("body_too_large", 0));
}

#[tokio::test]
async fn operations_of_graphql_tools_of_mcp_and_services_of_grpc_are_told_apart() {
    let (upstream, proxy) = under(CAPS, Speaks::Http1).await;
    let graphql = |query: &str| serde_json::json!({ "query": query }).to_string();
    let call = |tool: &str, q: &str| {
        serde_json::json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call",
            "params": { "name": tool, "arguments": { "q": q } } })
        .to_string()
    };
    for (path, body, reason) in [
        ("/graphql", graphql("{ me { id } }"), None),
        ("/graphql", graphql("query { issues { id } ...F } fragment F on Query { me { id } }"), None),
        ("/graphql", graphql("mutation { delete }"), Some("condition_not_met")),
        ("/graphql", graphql("{ me { id } secrets }"), Some("condition_not_met")),
        ("/graphql", "[]".to_owned(), Some("condition_not_met")),
        ("/graphql?trace=1", graphql("{ me { id } }"), None),
        ("/graphql?query=mutation%7Bdelete%7D", graphql("{ me { id } }"), Some("condition_not_met")),
        ("/graphql?x=1&documentId=7", graphql("{ me { id } }"), Some("condition_not_met")),
        ("/mcp", r#"{"jsonrpc": "2.0", "id": 1, "method": "tools/list"}"#.to_owned(), Some("denied_by_rule")),
        ("/mcp", call("search", "x"), None),
        ("/mcp", call("delete", "x"), Some("condition_not_met")),
        ("/mcp", call("search", "root"), Some("denied_by_rule")),
        ("/mcp", format!("[{}]", call("search", "x")), Some("denied_by_rule")),
    ] {
        let answer = proxy.send_body("api.test", json("POST", path), body.clone()).await;
        let expected = reason.map_or((200, String::new()), |reason| (403, reason.to_owned()));
        assert_eq!(told(&answer), expected, "{path} {body}");
    }
    let before = upstream.count();
    for (path, kind, allowed) in [
        ("/a.v1.Reader/Get", "application/grpc+proto", true),
        ("/a.v1.Writer/Put", "application/grpc", false),
        ("/a.v1.Reader/Get", "text/plain", false),
    ] {
        let answer = proxy.send("api.test", Request::post(path).header("content-type", kind)).await;
        assert_eq!(answer.status == StatusCode::OK, allowed, "{path} {kind}");
    }
    assert_eq!(upstream.count(), before + 1);
}

#[tokio::test]
async fn a_response_is_held_against_the_rule_before_the_pod_sees_any_of_it() {
    let (_upstream, proxy) = under(CAPS, Speaks::Http1).await;
    let request = |kind: &str| Request::put("/checked").header("x-answer-type", kind);
    let kind = "application/json; charset=utf-8";
    let open = r#"{"open": true, "secret": 1}"#;
    for chunk in [None, Some("5")] {
        let mut request = request(kind);
        if let Some(size) = chunk {
            request = request.header("x-answer-chunk", size);
        }
        let answer = proxy.send_body("api.test", request, open).await;
        assert_eq!((answer.status, &answer.body[..]), (StatusCode::OK, open.as_bytes()));
    }
    let long = format!(r#"{{"open": true, "a": "{}"}}"#, "x".repeat(1000));
    for (request, body, reason) in [
        (request(kind), r#"{"open": false}"#, "response_condition_not_met"),
        (request(kind), r#"{"open": tr"#, "response_unreadable"),
        (request(kind), &long, "response_too_large"),
        (request(kind).header("x-answer-chunk", "64"), &long, "response_too_large"),
        (request("text/html"), open, "response_content_type_not_allowed"),
        (request(kind).header("x-answer-status", "404"), open, "response_status_not_allowed"),
    ] {
        let answer = proxy.send_body("api.test", request, body.to_owned()).await;
        assert_eq!(told(&answer), (502, reason.to_owned()));
        assert!(!String::from_utf8_lossy(&answer.body).contains("secret"));
    }
    let row = proxy.rows.with_reason("response_condition_not_met").await;
    assert_eq!(row.phase.as_deref(), Some("response_body"));
    assert_eq!(row.decision, Some(freehold_model::audit::Decision::Deny));
    assert!(row.detail.unwrap()["decision_id"].is_string());
    assert_eq!(
        proxy.rows.with_reason("response_status_not_allowed").await.phase.as_deref(),
        Some("response_headers")
    );
}

#[tokio::test]
async fn a_response_that_is_only_bounded_streams_and_is_cut_where_it_is_too_long() {
    let (_upstream, proxy) = under(CAPS, Speaks::Http1).await;
    let send = |length: usize| {
        let request = Request::put("/bounded").header("x-answer-chunk", "100").header("host", "api.test");
        let request = request.body(http_body_util::Full::new(Bytes::from("x".repeat(length)))).unwrap();
        let proxy = &proxy;
        async move {
            proxy.http1("api.test").await.send_request(request).await.unwrap().into_body().collect().await
        }
    };
    assert_eq!(send(1000).await.unwrap().to_bytes().len(), 1000);
    assert!(send(1001).await.is_err());
    let row = proxy.rows.with_reason("response_too_large").await;
    assert_eq!(row.phase.as_deref(), Some("response_body"));
    let told = proxy.send_body("api.test", Request::put("/bounded"), "x".repeat(1001)).await;
    assert_eq!(told.reason(), "response_too_large");
}

#[tokio::test]
async fn more_bodies_at_once_than_there_is_room_for_wait_and_are_then_refused() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let proxy = Proxy::start_with(&upstream, |options| {
        options.limits.bodies_per_pod_kibibytes_max = 1;
        options.limits.body_wait_ms = 50;
    })
    .await;
    proxy.publish_with(CAPS, Kept::default());
    let mut held = proxy.https("api.test").await;
    let head = "POST /orders HTTP/1.1\r\nhost: api.test\r\ncontent-type: application/json\r\ncontent-length: 15\r\n\r\n{";
    held.write_all(head.as_bytes()).await.unwrap();
    // The first holds its room as soon as its head was read, which nothing outside shows.
    loop {
        let answer = proxy.send_body("api.test", json("POST", "/orders"), r#"{"amount": 7}"#).await;
        if answer.status == StatusCode::SERVICE_UNAVAILABLE {
            assert_eq!(answer.reason(), "bodies_full");
            break;
        }
        assert_eq!(answer.status, StatusCode::OK);
    }
    held.write_all(b"\"amount\": 0007}").await.unwrap();
    let mut answer = [0; 12];
    held.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 403");
    let answer = proxy.send_body("api.test", json("POST", "/orders"), r#"{"amount": 7}"#).await;
    assert_eq!(answer.status, StatusCode::OK);
}

#[tokio::test]
async fn a_body_that_its_upstream_does_not_take_keeps_its_room() {
    const BYTES: usize = 7 * 1024 * 1024;
    let deaf = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = Upstream::start(Speaks::Plain).await;
    let proxy = Proxy::start_with(&upstream, |options| {
        options.limits.bodies_per_pod_kibibytes_max = 8 * 1024;
        options.limits.body_wait_ms = 50;
        options.hosts.insert("plain.test".to_owned(), deaf.local_addr().unwrap());
    })
    .await;
    let caps = "
- name: api
  type: http
  allow:
    - name: import
      domains: [plain.test]
      methods: [POST]
      allow_insecure: true
      when: size(request.body) > 0
      body: {max_bytes: 8388608}
";
    proxy.publish_with(caps, Kept::default());
    let begin = async || {
        let mut stream = proxy.connect_name("plain.test", 80).await;
        let head = format!(
            "POST / HTTP/1.1\r\nhost: plain.test\r\ncontent-type: application/json\r\ncontent-length: {BYTES}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream
    };
    let mut first = begin().await;
    first.write_all(format!("[\"{}\"]", "x".repeat(BYTES - 4)).as_bytes()).await.unwrap();
    // It takes the connection, and whatever its system keeps of it, and reads nothing.
    let (mut taken, _) = deaf.accept().await.unwrap();
    taken.read_exact(&mut [0; 1]).await.unwrap();
    let mut answer = [0; 12];
    begin().await.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 503");
    // What is read takes no room any more.
    taken.read_exact(&mut vec![0; BYTES]).await.unwrap();
    drop(first);
    let mut stream = begin().await;
    stream.write_all(format!("[\"{}\"]", "x".repeat(BYTES - 4)).as_bytes()).await.unwrap();
    deaf.accept().await.unwrap();
}
