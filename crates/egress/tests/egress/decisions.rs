//! What passes and what does not.

use std::time::Duration;

use freehold_model::TaskId;
use http::{Request, StatusCode, Version};
use http_body_util::Full;
use uuid::Uuid;

use crate::{
    harness::{Proxy, http1_on, read, under},
    upstream::{Speaks, Upstream},
};

#[tokio::test]
async fn a_request_that_a_rule_allows_reaches_the_upstream_as_it_was() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let proxy = Proxy::start(&upstream).await;
    let request = Request::post("/open/%41?q=a%20b").header("host", "api.test").header("x-kept", "yes");
    let mut sender = proxy.http1("api.test").await;
    let request = request.body(Full::from("hello")).unwrap();
    let answer = read(sender.send_request(request).await.unwrap()).await;
    assert_eq!((answer.status, &answer.body[..]), (StatusCode::OK, &b"hello"[..]));
    assert!(!answer.headers.contains_key("alt-svc"));
    let seen = upstream.last();
    assert_eq!((seen.method.as_str(), seen.target.as_str()), ("POST", "/open/A?q=a%20b"));
    assert_eq!(
        (&seen.headers["host"], &seen.headers["x-kept"]),
        (&"api.test".parse().unwrap(), &"yes".parse().unwrap())
    );
    assert_eq!(&seen.body[..], b"hello");
}

#[tokio::test]
async fn what_the_client_speaks_is_spoken_upstream_where_it_can_be() {
    for (speaks, with_http1, with_http2) in [
        (Speaks::Http1, Version::HTTP_11, Version::HTTP_11),
        (Speaks::Http2, Version::HTTP_2, Version::HTTP_2),
        (Speaks::Either, Version::HTTP_11, Version::HTTP_2),
    ] {
        let upstream = Upstream::start(speaks).await;
        let proxy = Proxy::start(&upstream).await;
        let request = || Request::post("https://api.test/open/a").header("host", "api.test");
        let answer =
            proxy.http1("api.test").await.send_request(request().body(Full::from("hello")).unwrap()).await;
        let answer = read(answer.unwrap()).await;
        assert_eq!((answer.status, &answer.body[..]), (StatusCode::OK, &b"hello"[..]));
        assert_eq!(upstream.last().version, with_http1, "{speaks:?}");
        let answer =
            proxy.http2("api.test").await.send_request(request().body(Full::from("hello")).unwrap()).await;
        let answer = read(answer.unwrap()).await;
        assert_eq!((answer.status, &answer.body[..]), (StatusCode::OK, &b"hello"[..]));
        assert_eq!(upstream.last().version, with_http2, "{speaks:?}");
    }
}

#[tokio::test]
async fn a_request_without_a_rule_is_answered_403_and_nothing_is_dialled() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let proxy = Proxy::start(&upstream).await;
    for (name, method, path, reason) in [
        ("other.test", "GET", "/", "domain_not_allowed"),
        ("api.test", "DELETE", "/open/a", "method_not_allowed"),
        ("api.test", "GET", "/closed", "path_not_allowed"),
        ("api.test", "GET", "/open/%2e%2e/closed", "path_ambiguous"),
        ("api.test", "GET", "/open//a", "path_ambiguous"),
        ("api.test", "OPTIONS", "*", "path_ambiguous"),
    ] {
        let answer = proxy.send(name, Request::builder().method(method).uri(path)).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{name} {method} {path}");
        let body: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(body["error"]["code"], "egress_denied");
        assert_eq!(
            (body["error"]["reason"].as_str(), body["error"]["destination"].as_str()),
            (Some(reason), Some(name))
        );
    }
    assert_eq!(upstream.connections.load(std::sync::atomic::Ordering::SeqCst), 0);
}

#[tokio::test]
async fn conditions_see_the_head_as_it_goes_out_and_a_rule_that_denies_is_named() {
    let caps = r#"
- name: api
  type: http
  allow:
    - name: seen
      domains: [api.test]
      methods: [GET]
      when:
        - request.scheme == "https" && request.host == "api.test" && request.port == 443 && !request.websocket
        - request.query["a b"] == ["1", "2"] && !("c" in request.query)
        - request.headers["x-twice"] == "1, 2" && !("x-http-method-override" in request.headers)
        - request.headers.all(name, name != "connection" && name != "x-hop")
        - role.name == "reviewer" && user.id == "user_7" && workspace.id.startsWith("ws_") && task.id.startsWith("task_")
        - now > timestamp("2026-01-01T00:00:00Z")
  deny:
    - { name: marked, domains: [api.test], when: '"x-mark" in request.headers && request.headers["x-mark"] != "0"' }
    - { name: secret, domains: [api.test], paths: [/secret] }
"#;
    let (upstream, proxy) = under(caps, Speaks::Http1).await;
    proxy.set_token(Some(TaskId::from_uuid(Uuid::now_v7())), Duration::from_secs(60));
    let seen = |path: &str| {
        Request::get(path)
            .header("x-twice", "1")
            .header("x-twice", "2")
            .header("connection", "x-hop")
            .header("x-hop", "yes")
            .header("x-http-method-override", "DELETE")
    };
    let answer = proxy.send("api.test", seen("/a?a+b=1&a%20b=2")).await;
    assert_eq!(answer.status, StatusCode::OK, "{:?}", answer.body);
    for (request, reason) in [
        (seen("/a?a+b=1"), "condition_not_met"),
        (Request::get("/a?a+b=1&a%20b=2"), "condition_not_met"),
        (seen("/a?a+b=1&a+b=2").header("x-mark", "1"), "denied_by_rule"),
        (seen("/a?a+b=1&a+b=2").header("x-mark", &b"\xff"[..]), "denied_by_rule"),
        (seen("/a?a+b=1&a+b=2").header("x_mark", "1"), "denied_by_rule"),
        (seen("/a?a+b=1&a+b=2;c=1"), "condition_not_met"),
        (seen("/a?a+b=1&a+b=2&x=%ff"), "condition_not_met"),
        (Request::get("/secret"), "denied_by_rule"),
        (Request::builder().method("PROPFIND").uri("/secret"), "denied_by_rule"),
    ] {
        let answer = proxy.send("api.test", request).await;
        let body: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!((answer.status, body["error"]["reason"].as_str()), (StatusCode::FORBIDDEN, Some(reason)));
        // Nothing of the policy's text: not a rule's name, not what it asks for.
        let mut fields: Vec<&String> = body["error"].as_object().unwrap().keys().collect();
        fields.sort();
        assert_eq!(fields, ["code", "decision_id", "destination", "message", "reason"]);
        let message = format!("the request to api.test was not allowed: {reason}");
        assert_eq!(
            (body.as_object().unwrap().len(), body["error"]["message"].as_str()),
            (1, Some(&*message))
        );
    }
    assert_eq!(upstream.count(), 1);
    let row = proxy.rows.with_reason("denied_by_rule").await;
    assert_eq!(row.capability_name.as_deref(), Some("api"));
    assert_eq!(row.detail, Some(serde_json::json!({"rule": "marked", "origin": "role"})));
    let row = proxy.rows.with_reason("condition_not_met").await;
    assert_eq!(row.capability_name.as_deref(), Some("api"));
    assert_eq!(row.detail.unwrap()["origin"], "role");
}

#[tokio::test]
async fn plain_http_needs_a_rule_that_says_so() {
    let upstream = Upstream::start(Speaks::Plain).await;
    let proxy = Proxy::start(&upstream).await;
    for (name, status) in [("plain.test", StatusCode::OK), ("api.test", StatusCode::FORBIDDEN)] {
        let mut sender = http1_on(proxy.connect_name(name, 80).await).await;
        let request = Request::get("/open/a").header("host", name).body(Full::default()).unwrap();
        assert_eq!(read(sender.send_request(request).await.unwrap()).await.status, status, "{name}");
    }
    assert_eq!(upstream.count(), 1);
}

/// In another process of this program, whose machine's roots are a file of the test's.
#[test]
fn an_upstream_is_verified_by_the_roots_of_the_machine() {
    const TEST: &str = "decisions::an_upstream_is_verified_by_the_roots_of_the_machine";
    let roots = std::path::Path::new("roots-of-a-test.pem");
    if roots.exists() {
        // This is the other process, in the folder of that file.
        return tokio::runtime::Runtime::new().unwrap().block_on(verified_by(roots));
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(roots), "").unwrap();
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", TEST])
        .current_dir(dir.path())
        .env("SSL_CERT_FILE", dir.path().join(roots))
        .env_remove("SSL_CERT_DIR")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let failed = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}{failed}");
}

async fn verified_by(roots: &std::path::Path) {
    let upstream = Upstream::start(Speaks::Http1).await;
    let other = Upstream::start(Speaks::Http1).await;
    for (trusted, reason) in [(&upstream.ca_pem, None), (&other.ca_pem, Some("upstream_untrusted"))] {
        std::fs::write(roots, trusted).unwrap();
        let proxy = Proxy::start_with(&upstream, |options| options.upstream_roots_pem.clear()).await;
        let answer = proxy.get("api.test", "/open/a").await;
        let expected = if reason.is_none() { StatusCode::OK } else { StatusCode::BAD_GATEWAY };
        assert_eq!(answer.status, expected);
        assert_eq!(reason.map(str::to_owned), reason.map(|_| answer.reason()));
    }
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn names_that_disagree_are_answered_421() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let proxy = Proxy::start(&upstream).await;
    for (dialled, sni, host) in [
        ("api.test", "api.test", "other.test"),
        ("api.test", "other.test", "api.test"),
        ("api.test", "other.test", "other.test"),
        ("other.test", "api.test", "api.test"),
        ("api.test", "api.test", "api.test:8443"),
    ] {
        let stream = proxy.connect_name(dialled, 443).await;
        let mut sender = http1_on(proxy.tls(stream, sni, b"http/1.1").await).await;
        let request = Request::get("/open/a").header("host", host).body(Full::default()).unwrap();
        let answer = read(sender.send_request(request).await.unwrap()).await;
        assert_eq!(
            (answer.status, answer.reason().as_str()),
            (StatusCode::MISDIRECTED_REQUEST, "authority_mismatch")
        );
    }
    let mut sender = proxy.http2("api.test").await;
    let request = Request::get("https://other.test/open/a").body(Full::default()).unwrap();
    assert_eq!(
        read(sender.send_request(request).await.unwrap()).await.status,
        StatusCode::MISDIRECTED_REQUEST
    );
    assert_eq!(upstream.count(), 0);
}

#[tokio::test]
async fn an_address_that_was_dialled_without_asking_for_a_name_is_no_names() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let proxy = Proxy::start(&upstream).await;
    let stream = proxy.connect("93.184.216.34:443".parse().unwrap()).await;
    let mut sender = http1_on(proxy.tls(stream, "api.test", b"http/1.1").await).await;
    let request = Request::get("/open/a").header("host", "api.test").body(Full::default()).unwrap();
    assert_eq!(
        read(sender.send_request(request).await.unwrap()).await.status,
        StatusCode::MISDIRECTED_REQUEST
    );
}

#[tokio::test]
async fn an_allowed_address_inside_is_refused_where_rules_may_not_name_it() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let proxy = Proxy::start_with(&upstream, |options| options.rules_name_addresses = false).await;
    for address in ["10.0.0.5", "169.254.169.254"] {
        let stream = proxy.connect(format!("{address}:443").parse().unwrap()).await;
        let mut sender = http1_on(proxy.tls(stream, address, b"http/1.1").await).await;
        let request = Request::get("/").header("host", address).body(Full::default()).unwrap();
        let answer = read(sender.send_request(request).await.unwrap()).await;
        assert_eq!((answer.status, answer.reason().as_str()), (StatusCode::FORBIDDEN, "address_forbidden"));
        let row = proxy.rows.with_reason("address_forbidden").await;
        assert_eq!(row.capability_name.as_deref(), Some("inside"));
    }
}

#[tokio::test]
async fn a_connection_to_the_pods_loopback_or_to_an_address_never_given_out_is_closed_with_a_row() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let proxy = Proxy::start(&upstream).await;
    for (to, reason) in [
        ("127.0.0.1:15001", "destination_forbidden"),
        ("0.0.0.0:80", "destination_forbidden"),
        ("198.18.77.77:443", "address_unknown"),
    ] {
        let stream = proxy.connect(to.parse().unwrap()).await;
        stream.readable().await.unwrap();
        assert!(matches!(stream.try_read(&mut [0]), Ok(0) | Err(_)));
        let row = proxy.rows.find(|row| row.destination.as_deref() == Some(to)).await;
        assert_eq!((row.reason.as_deref(), row.policy_type.as_deref()), (Some(reason), Some("http")));
    }
}

#[tokio::test]
async fn what_is_neither_tls_nor_http_and_http2_without_tls_is_closed_with_a_row() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let upstream = Upstream::start(Speaks::Http1).await;
    let proxy = Proxy::start_with(&upstream, |options| options.limits.client_handshake_ms = 50).await;
    let http2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    for (port, bytes) in [(22, &b"\x00\x01binary"[..]), (5432, b""), (8080, http2)] {
        let mut stream = proxy.connect_name("api.test", port).await;
        stream.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await.unwrap();
        assert!(answer.is_empty());
        let destination = format!("api.test:{port}");
        let row = proxy.rows.find(|row| row.destination.as_deref() == Some(&destination)).await;
        assert_eq!(row.reason.as_deref(), Some("protocol_unknown"));
    }
}

#[tokio::test]
async fn an_upstream_that_is_not_there_or_not_itself_is_answered_502() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let plain = Upstream::start(Speaks::Plain).await;
    let gone = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let stranger = Upstream::start(Speaks::Http1).await;
    for (name, address, reason) in [
        ("api.test", gone, "upstream_unreachable"),
        ("api.test", plain.address, "upstream_tls"),
        ("api.test", stranger.address, "upstream_untrusted"),
        // Its certificate does not have this name.
        ("plain.test", upstream.address, "upstream_certificate"),
    ] {
        let proxy = Proxy::start_with(&upstream, |options| {
            options.hosts.insert(name.to_owned(), address);
        })
        .await;
        let answer = proxy.get(name, "/open/a").await;
        assert_eq!((answer.status, answer.reason().as_str()), (StatusCode::BAD_GATEWAY, reason));
        let row = proxy.rows.with_reason("rule_matched").await;
        assert_eq!(row.detail.unwrap()["upstream_error"], reason);
        assert_eq!(row.latency_ms, None);
    }
    assert_eq!((stranger.count(), upstream.count()), (0, 0));
}
