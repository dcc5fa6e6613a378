//! Budgets, as a pod and an upstream see them.

use std::{sync::atomic::Ordering, time::Duration};

use bytes::Bytes;
use freehold_model::{
    TaskId,
    audit::{AuditEvent, Decision},
};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::{body::Frame, body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::io::AsyncWriteExt;

use crate::{
    harness::{PATIENCE, Proxy, read},
    upstream::{Speaks, Upstream},
};

/// A proxy whose one rule is under these counters.
async fn proxy(upstream: &Upstream, budgets: &str) -> Proxy {
    // What is not used is given back at once, so that a test sees what was used.
    let proxy = Proxy::start_with(upstream, |options| options.budgets.idle_ms = 0).await;
    let caps = format!(
        "- name: api\n  type: http\n  allow:\n    - name: read\n      domains: [api.test, ws.test]\n      methods: [GET, POST]\n  budgets:\n{budgets}"
    );
    proxy.publish(&caps, Ok(("x-api-key", "s3cret")));
    proxy
}

/// Waits until so much is taken of a counter.
async fn taken(proxy: &Proxy, counter: &str, amount: u64) {
    let taken = async {
        let mut looks = tokio::time::interval(Duration::from_millis(10));
        while proxy.counts.taken(counter) != amount {
            looks.tick().await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, taken).await;
    waited.unwrap_or_else(|_| panic!("{counter}: {} and not {amount}", proxy.counts.taken(counter)));
}

#[tokio::test]
async fn a_counted_request_passes_up_to_the_limit_and_then_is_denied_by_name() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let proxy = proxy(
        &upstream,
        "    calls: {unit: requests, per: workspace, limit: 3, warn_at: 2}\n    more: {unit: requests, per: organization, limit: 100}\n",
    )
    .await;
    for _ in 0..3 {
        assert_eq!(proxy.get("api.test", "/a").await.status, StatusCode::OK);
    }
    let answer = proxy.get("api.test", "/a").await;
    assert_eq!((answer.status, answer.reason()), (StatusCode::FORBIDDEN, "budget_exceeded".to_owned()));
    assert_eq!(upstream.count(), 3);
    let row = proxy.rows.with_reason("budget_exceeded").await;
    assert_eq!(json!(row.budget_ceilings), json!({ "role/calls": "budget_exceeded" }));
    assert_eq!((row.decision, row.capability_name.as_deref()), (Some(Decision::Deny), Some("api")));
    let allowed = proxy
        .rows
        .find(|row| row.budget_snapshot.get("role/calls").is_some_and(|one| one["used"] == 3))
        .await;
    assert_eq!(allowed.budget_snapshot["role/calls"], json!({ "unit": "requests", "used": 3, "limit": 3 }));
    let warned = proxy.rows.find(|row| row.event_type.as_str() == "budget_warned").await;
    assert_eq!(warned.detail.unwrap()["used"], 2);
    // A counter has room again with another limit, and for the next request.
    let caps = "- name: api\n  type: http\n  allow: [{domains: [api.test], methods: [GET]}]\n  budgets: {calls: {unit: requests, per: workspace, limit: 4}}\n";
    proxy.publish(caps, Ok(("x-api-key", "s3cret")));
    assert_eq!(proxy.get("api.test", "/a").await.status, StatusCode::OK);
    assert_eq!(proxy.get("api.test", "/a").await.reason(), "budget_exceeded");
}

#[tokio::test]
async fn every_unit_is_counted_per_everything() {
    let body = r#"{"model":"gpt-4o","usage":{"prompt_tokens":1000,"completion_tokens":1000}}"#;
    let length = body.len() as u64;
    let units = [
        ("requests", 1),
        ("request_bytes", length),
        ("response_bytes", length),
        ("tokens", 2_000),
        // 2.50 and 10 dollars a million.
        ("usd", 12_500),
        ("expression", 7),
    ];
    let pers = [
        ("task", "task_"),
        ("session", "session_"),
        ("workspace", "ws_"),
        ("role", "agent_"),
        ("organization", "org_"),
    ];
    let (mut caps, mut expected) = (String::new(), Vec::new());
    for (unit, amount) in units {
        for (per, subject) in pers {
            let more = if unit == "expression" { ", amount: size(request.path) + 5" } else { "" };
            caps += &format!(
                "    {unit}-{per}: {{unit: {unit}, per: {per}, limit: 1000000, window: 1h{more}}}\n"
            );
            expected.push((format!("{unit}-{per}"), subject, amount));
        }
    }
    let upstream = Upstream::start(Speaks::Http1).await;
    let proxy = proxy(&upstream, &caps).await;
    proxy.set_token(Some(TaskId::from_uuid(uuid::Uuid::now_v7())), PATIENCE);
    let request = Request::post("/a").header("content-type", "application/json");
    let answer = proxy.send_body("api.test", request.header("x-answer-type", "application/json"), body).await;
    assert_eq!(answer.status, StatusCode::OK, "{:?}", answer.body);
    for (counter, subject, amount) in expected {
        taken(&proxy, &counter, amount).await;
        let counts = proxy.counts.all();
        let (key, _) = counts.iter().find(|(key, _)| *key.counter == *counter).unwrap();
        assert!(key.subject.to_string().starts_with(subject), "{counter}: {}", key.subject);
    }
}

#[tokio::test]
async fn a_request_whose_upstream_is_not_there_or_takes_no_connection_in_time_does_not_count() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = Proxy::start_with(&upstream, |options| {
        options.hosts.insert("ws.test".to_owned(), gone);
        options.hosts.insert("h2.test".to_owned(), silent.local_addr().unwrap());
        // Long enough for those that answer, whatever else the machine does.
        options.limits.connect_ms = 2_000;
    })
    .await;
    let caps = "- name: api\n  type: http\n  allow: [{domains: [api.test, ws.test, h2.test], methods: [GET]}]\n  budgets: {calls: {unit: requests, per: session, limit: 1}}\n";
    proxy.publish(caps, Ok(("x-api-key", "s3cret")));
    for _ in 0..3 {
        assert_eq!(proxy.get("ws.test", "/").await.reason(), "upstream_unreachable");
    }
    assert_eq!(proxy.get("h2.test", "/").await.reason(), "upstream_unreachable");
    assert_eq!(proxy.get("api.test", "/").await.status, StatusCode::OK);
    assert_eq!(proxy.get("api.test", "/").await.reason(), "budget_exceeded");
}

#[tokio::test]
async fn a_request_that_waits_in_vain_for_an_upstream_connection_is_told_so_and_does_not_count() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let busy = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = busy.local_addr().unwrap();
    let proxy = Proxy::start_with(&upstream, |options| {
        options.hosts.insert("plain.test".to_owned(), address);
        (options.limits.upstream_connections_max, options.limits.upstream_wait_ms) = (1, 1_000);
    })
    .await;
    let caps = "- name: api\n  type: http\n  allow: [{domains: [api.test, plain.test], methods: [GET], allow_insecure: true}]\n  budgets: {calls: {unit: requests, per: session, limit: 2}}\n";
    proxy.publish(caps, Ok(("x-api-key", "s3cret")));
    let mut first = proxy.connect_name("plain.test", 80).await;
    first.write_all(b"GET / HTTP/1.1\r\nhost: plain.test\r\n\r\n").await.unwrap();
    // The only connection there may be; it ends when the test lets it.
    let (held, _) = tokio::time::timeout(PATIENCE, busy.accept()).await.unwrap().unwrap();
    for _ in 0..2 {
        let answer = proxy.get("api.test", "/").await;
        let expected = (StatusCode::SERVICE_UNAVAILABLE, "connections_full".to_owned());
        assert_eq!((answer.status, answer.reason()), expected);
    }
    let refused = |row: &AuditEvent| {
        row.detail.as_ref().is_some_and(|detail| detail["upstream_error"] == "connections_full")
    };
    proxy.rows.find(refused).await;
    drop((held, first));
    let answer = proxy.get("api.test", "/").await;
    assert_eq!(answer.status, StatusCode::OK, "{:?}", answer.body);
}

/// Sends a body of unknown length.
async fn upload(proxy: &Proxy, parts: Vec<Vec<u8>>) -> hyper::Result<Response<Incoming>> {
    let frames = parts.into_iter().map(|part| Ok::<_, std::io::Error>(Frame::data(Bytes::from(part))));
    let body = StreamBody::new(tokio_stream::iter(frames));
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(proxy.https("api.test").await)).await.unwrap();
    tokio::spawn(connection);
    sender.send_request(Request::post("/a").header("host", "api.test").body(body).unwrap()).await
}

#[tokio::test]
async fn a_body_without_a_length_is_cut_at_the_limit_and_a_row_says_so() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let proxy = proxy(&upstream, "    up: {unit: request_bytes, per: workspace, limit: 100000}\n").await;
    let answer = read(upload(&proxy, vec![vec![b'x'; 30_000]; 3]).await.unwrap()).await;
    assert_eq!((answer.status, answer.body.len()), (StatusCode::OK, 90_000));
    let cut = upload(&proxy, vec![vec![b'x'; 30_000]; 3]).await;
    assert!(cut.is_err() || !cut.unwrap().status().is_success());
    let row = proxy.rows.with_reason("budget_exceeded").await;
    assert_eq!(row.phase.as_deref(), Some("request_body"));
    assert_eq!(json!(row.budget_ceilings), json!({ "role/up": "budget_exceeded" }));
    taken(&proxy, "up", 100_000).await;
    // One whose length is known is denied before anything of it goes out.
    let known = proxy
        .http1("api.test")
        .await
        .send_request(Request::post("/a").header("host", "api.test").body(Full::from("x")).unwrap());
    assert_eq!(read(known.await.unwrap()).await.reason(), "budget_exceeded");
}

#[tokio::test]
async fn an_answer_is_reserved_at_its_head_or_cut_where_it_goes_beyond() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let proxy = proxy(&upstream, "    down: {unit: response_bytes, per: workspace, limit: 1000}\n").await;
    let echo = async |size: usize| {
        let request =
            Request::post("/a").header("host", "api.test").body(Full::from(vec![b'x'; size])).unwrap();
        read(proxy.http1("api.test").await.send_request(request).await.unwrap()).await
    };
    assert_eq!(echo(700).await.body.len(), 700);
    let refused = echo(301).await;
    assert_eq!((refused.status, refused.reason()), (StatusCode::FORBIDDEN, "budget_exceeded".to_owned()));
    let row = proxy.rows.with_reason("budget_exceeded").await;
    assert_eq!(row.phase.as_deref(), Some("response_headers"));
    let mut stream = proxy.http1("api.test").await;
    let request = Request::get("/events").header("host", "api.test").body(Full::default()).unwrap();
    let mut response = stream.send_request(request).await.unwrap();
    upstream.events.send(Bytes::from(vec![b'x'; 200])).await.unwrap();
    let mut came = 0;
    while came < 200 {
        let frame = tokio::time::timeout(PATIENCE, response.frame()).await.unwrap().unwrap().unwrap();
        came += frame.into_data().unwrap().len();
    }
    upstream.events.send(Bytes::from(vec![b'x'; 200])).await.unwrap();
    let is_cut = loop {
        match tokio::time::timeout(PATIENCE, response.frame()).await.unwrap() {
            Some(Ok(frame)) => came += frame.into_data().unwrap().len(),
            other => break other.is_some(),
        }
    };
    assert!(is_cut && came <= 300, "{came}");
    let row = proxy.rows.find(|row| row.phase.as_deref() == Some("response_body")).await;
    assert_eq!(row.reason.as_deref(), Some("budget_exceeded"));
    taken(&proxy, "down", 1_000).await;
}

#[tokio::test]
async fn tokens_are_read_from_the_answer_which_is_asked_for_without_coding() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let proxy = proxy(&upstream, "    tokens: {unit: tokens, per: workspace, limit: 100000}\n").await;
    let mut stream = proxy.http1("api.test").await;
    let request = Request::get("/events").header("host", "api.test").header("accept-encoding", "gzip");
    let mut response = stream.send_request(request.body(Full::default()).unwrap()).await.unwrap();
    assert_eq!(upstream.last().headers["accept-encoding"], "identity");
    for event in [
        "data: {\"message\":{\"model\":\"m\",\"usage\":{\"input_tokens\":70,\"output_tokens\":1}}}\n\n",
        "data: {\"usage\":{\"output_tokens\":30}}\n\n",
    ] {
        upstream.events.send(Bytes::from(event)).await.unwrap();
        // Nothing of it waits for the next.
        let frame = tokio::time::timeout(PATIENCE, response.frame()).await.unwrap().unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), event);
    }
    let Upstream { events, .. } = upstream;
    drop(events);
    assert!(tokio::time::timeout(PATIENCE, response.frame()).await.unwrap().is_none());
    taken(&proxy, "tokens", 100).await;
}

#[tokio::test]
async fn money_needs_a_price_and_is_counted_by_the_model_that_answers() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let proxy = proxy(&upstream, "    spend: {unit: usd, per: workspace, limit: 1}\n").await;
    let ask = async |body: &'static str| {
        let request =
            Request::post("/a").header("host", "api.test").header("content-type", "application/json");
        let sent = proxy.http1("api.test").await.send_request(request.body(Full::from(body)).unwrap()).await;
        read(sent.unwrap()).await
    };
    assert_eq!(ask(r#"{"model":"nobody-knows"}"#).await.reason(), "budget_uncountable");
    let row = proxy.rows.with_reason("budget_uncountable").await;
    assert_eq!(json!(row.budget_ceilings), json!({ "role/spend": "price_unknown" }));
    assert_eq!(upstream.connections.load(Ordering::SeqCst), 0);
    // The upstream repeats the body, as an answer's usage.
    let body = r#"{"model":"gpt-4o","usage":{"prompt_tokens":100000,"completion_tokens":100000}}"#;
    assert_eq!(ask(body).await.status, StatusCode::OK);
    // 0.25 and 1 dollar: more than there is, and than was estimated.
    taken(&proxy, "spend", 1_250_000).await;
    assert_eq!(ask(body).await.reason(), "budget_exceeded");
}

#[tokio::test]
async fn several_counters_hold_a_request_together_and_an_expression_says_how_much_it_is() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let proxy = proxy(
        &upstream,
        "    calls: {unit: requests, per: workspace, limit: 2}\n    items: {unit: expression, amount: 'int(request.query[\"n\"][0])', per: role, limit: 10}\n",
    )
    .await;
    assert_eq!(proxy.get("api.test", "/a?n=9").await.status, StatusCode::OK);
    assert_eq!(proxy.get("api.test", "/a?n=2").await.reason(), "budget_exceeded");
    assert_eq!(proxy.get("api.test", "/a?n=many").await.reason(), "budget_uncountable");
    // What was denied took nothing of the other counter.
    assert_eq!(proxy.get("api.test", "/a?n=1").await.status, StatusCode::OK);
    assert_eq!(proxy.get("api.test", "/a?n=0").await.reason(), "budget_exceeded");
    assert_eq!(upstream.count(), 2);
}

#[tokio::test]
async fn a_tunnel_counts_as_a_request_and_is_refused_where_its_bytes_would_count() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let proxy = proxy(&upstream, "    down: {unit: response_bytes, per: workspace, limit: 1000}\n").await;
    let request = || {
        let request = Request::get("/ws").header("connection", "upgrade").header("upgrade", "websocket");
        request.header("sec-websocket-key", "x").header("sec-websocket-version", "13")
    };
    assert_eq!(proxy.send("ws.test", request()).await.reason(), "budget_uncountable");
    assert_eq!(upstream.count(), 0);
}
