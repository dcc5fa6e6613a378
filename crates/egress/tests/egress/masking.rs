//! What an upstream repeats of a credential does not reach the pod.

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    harness::{Answer, CAPS, PATIENCE, Proxy, read},
    upstream::{Speaks, Upstream},
};

const KEY: &str = "sk-ant-s3cret+0123/4567";
const MASKED: &str = "***********************";
const ASK: &str = "POST /v1/messages HTTP/1.1\r\nhost: model.test\r\ncontent-length: 0\r\n\r\n";

async fn ask(proxy: &Proxy, request: http::request::Builder) -> Answer {
    proxy.send("model.test", request).await
}

/// A body's text. Where the upstream paused behind the first byte of one of `spellings`, that byte passed; here it is struck
/// out like the others.
fn text_of(body: &[u8], spellings: &[&str]) -> String {
    let text = String::from_utf8(body.to_vec()).unwrap();
    spellings.iter().fold(text, |text, spelling| {
        let stars = "*".repeat(spelling.len());
        text.replace(&format!("{}{}", &spelling[..1], &stars[1..]), &stars)
    })
}

#[tokio::test]
async fn a_repeated_key_is_struck_out_of_headers_body_and_trailers_over_both_versions_however_it_is_cut() {
    for speaks in [Speaks::Http1, Speaks::Http2] {
        let upstream = Upstream::start(speaks).await;
        let proxy = Proxy::start(&upstream).await;
        proxy.publish(CAPS, Ok(("x-api-key", KEY)));
        for size in [1, 3, 10, 1_000] {
            let mut sender = proxy.http2("model.test").await;
            let request = Request::post("https://model.test/v1/messages")
                .header("x-reflect", size)
                .header("te", "trailers");
            let response = sender.send_request(request.body(Full::default()).unwrap()).await.unwrap();
            let (parts, body) = response.into_parts();
            let body = body.collect().await.unwrap();
            assert_eq!(body.trailers().unwrap()["x-echo"], MASKED);
            let text = text_of(&body.to_bytes(), &[KEY]);
            assert!(text.contains(&format!("x-api-key: {MASKED}\n")) && !text.contains(KEY), "{text}");
            assert!(text.contains(&format!("x-reflect: {size}\n")), "{text}");
            assert_eq!(parts.status, StatusCode::UNAUTHORIZED);
            assert_eq!(
                (&parts.headers["location"], &parts.headers["set-cookie"]),
                (&MASKED.parse().unwrap(), &MASKED.parse().unwrap())
            );
            let answer = ask(&proxy, Request::post("/v1/messages").header("x-reflect", size)).await;
            assert!(!String::from_utf8(answer.body.to_vec()).unwrap().contains(KEY));
        }
    }
}

#[tokio::test]
async fn a_masked_response_has_one_more_row() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let proxy = Proxy::start(&upstream).await;
    proxy.publish(CAPS, Ok(("x-api-key", KEY)));
    ask(&proxy, Request::post("/v1/messages").header("x-reflect", 7)).await;
    let row = proxy.rows.with_reason("secret_masked").await;
    let decision = proxy.rows.with_reason("rule_matched").await;
    assert_eq!(row.detail.unwrap()["decision_id"], decision.id.to_string());
    assert_eq!((row.phase.as_deref(), row.auth_applied), (Some("response_headers"), vec!["main".to_owned()]));
    assert_eq!(row.path.as_deref(), Some("/v1/messages"));
    assert_eq!(
        proxy.rows.all().iter().filter(|row| row.reason.as_deref() == Some("secret_masked")).count(),
        1
    );
}

#[tokio::test]
async fn basic_credentials_are_struck_out_as_the_pair_and_as_the_password() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let proxy = Proxy::start(&upstream).await;
    let pair = BASE64_STANDARD.encode("bot:pass-w0rd!");
    proxy.publish(CAPS, Ok(("authorization", &format!("Basic {pair}"))));
    let body = "the pair bot:pass-w0rd! or pass-w0rd! or pass-w0rd%21 alone";
    let mut sender = proxy.http1("model.test").await;
    let request = Request::post("/v1/messages").header("host", "model.test").header("x-reflect", 4);
    let answer = read(sender.send_request(request.body(Full::from(body)).unwrap()).await.unwrap()).await;
    let text = text_of(&answer.body, &[&pair, "bot:pass-w0rd!", "pass-w0rd!", "pass-w0rd%21"]);
    assert!(text.contains(&format!("authorization: Basic {}\n", "*".repeat(pair.len()))), "{text}");
    assert!(text.ends_with("the pair ************** or ********** or ************ alone"), "{text}");
}

#[tokio::test]
async fn a_key_in_the_query_is_struck_out_as_it_is_and_as_it_was_escaped() {
    let head = "HTTP/1.1 302 Found\r\nlocation: /login?key=s3cret%26more&a=1\r\ncontent-length: 11\r\n\r\ns3cret&more";
    let upstream = Upstream::scripted(head, false).await;
    let proxy = Proxy::start(&upstream).await;
    proxy.publish(CAPS, Ok(("?key", "s3cret&more")));
    let answer = ask(&proxy, Request::post("/v1/messages")).await;
    assert_eq!(answer.headers["location"], "/login?key=*************&a=1");
    assert_eq!(
        (&answer.headers["content-length"], &answer.body[..]),
        (&"11".parse().unwrap(), &b"***********"[..])
    );
}

#[tokio::test]
async fn words_after_the_status_and_interim_responses_stay_behind() {
    let answer = format!(
        "HTTP/1.1 103 Early Hints\r\nlink: {KEY}\r\n\r\nHTTP/1.1 400 {KEY}\r\nx-{KEY}: a\r\ncontent-length: 0\r\n\r\n"
    )
    .replace("+0123/", "-0123-");
    let key = KEY.replace("+0123/", "-0123-");
    let upstream = Upstream::scripted(answer, false).await;
    let proxy = Proxy::start(&upstream).await;
    proxy.publish(CAPS, Ok(("x-api-key", &key)));
    let mut stream = proxy.https("model.test").await;
    stream.write_all(ASK.replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n").as_bytes()).await.unwrap();
    let mut text = String::new();
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut text)).await.unwrap().unwrap();
    assert!(text.starts_with("HTTP/1.1 400 Bad Request\r\n") && !text.contains(&key), "{text}");
}

#[tokio::test]
async fn a_response_is_asked_for_uncompressed_and_whole() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let proxy = Proxy::start(&upstream).await;
    proxy.publish(CAPS, Ok(("x-api-key", KEY)));
    let request =
        || Request::post("/v1/messages").header("accept-encoding", "gzip, br").header("range", "bytes=0-3");
    assert_eq!(ask(&proxy, request()).await.status, StatusCode::OK);
    let seen = upstream.last().headers;
    assert_eq!(seen["accept-encoding"], "identity");
    assert!(!seen.contains_key("range"));
    let other = Request::post("/open/a").header("accept-encoding", "gzip").header("range", "bytes=0-3");
    assert_eq!(proxy.send("api.test", other).await.status, StatusCode::OK);
    let seen = upstream.last().headers;
    assert_eq!(
        (&seen["accept-encoding"], &seen["range"]),
        (&"gzip".parse().unwrap(), &"bytes=0-3".parse().unwrap())
    );
}

#[tokio::test]
async fn a_response_that_is_compressed_all_the_same_is_refused() {
    for coding in [
        "content-encoding: gzip",
        "content-encoding: identity\r\ncontent-encoding: br",
        "transfer-encoding: gzip, chunked",
    ] {
        let length = if coding.starts_with("transfer") { "" } else { "content-length: 3\r\n" };
        let upstream = Upstream::scripted(
            format!("HTTP/1.1 200 OK\r\n{coding}\r\n{length}\r\n3\r\nabc\r\n0\r\n\r\n"),
            false,
        )
        .await;
        let proxy = Proxy::start(&upstream).await;
        proxy.publish(CAPS, Ok(("x-api-key", KEY)));
        let answer = ask(&proxy, Request::post("/v1/messages")).await;
        assert_eq!(
            (answer.status, answer.reason().as_str()),
            (StatusCode::BAD_GATEWAY, "upstream_encoded"),
            "{coding}"
        );
        let row = proxy.rows.find(|row| {
            row.detail.as_ref().is_some_and(|detail| detail["upstream_error"] == "upstream_encoded")
        });
        row.await;
    }
}

#[tokio::test]
async fn an_event_that_could_begin_no_secret_does_not_wait_and_what_was_held_comes_at_the_end() {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    let upstream = Upstream::scripted(format!("{head}9\r\ndata: 1\n\n\r\n"), true).await;
    let proxy = Proxy::start(&upstream).await;
    proxy.publish(CAPS, Ok(("x-api-key", KEY)));
    let mut sender = proxy.http1("model.test").await;
    let request = Request::post("/v1/messages").header("host", "model.test").body(Full::default()).unwrap();
    let mut response = sender.send_request(request).await.unwrap();
    // The upstream sends nothing more and does not end either.
    let frame = tokio::time::timeout(PATIENCE, response.frame()).await.unwrap().unwrap().unwrap();
    assert_eq!(frame.into_data().unwrap(), "data: 1\n\n");

    let upstream = Upstream::scripted(format!("{head}6\r\nsk-ant\r\n0\r\n\r\n"), false).await;
    let proxy = Proxy::start(&upstream).await;
    proxy.publish(CAPS, Ok(("x-api-key", KEY)));
    assert_eq!(ask(&proxy, Request::post("/v1/messages")).await.body, "sk-ant");
}

#[tokio::test]
async fn a_short_secret_passes_as_documented() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let proxy = Proxy::start(&upstream).await;
    proxy.publish(CAPS, Ok(("x-api-key", "s3cret7")));
    let answer =
        ask(&proxy, Request::post("/v1/messages").header("x-reflect", 7).header("accept-encoding", "br"))
            .await;
    assert!(String::from_utf8(answer.body.to_vec()).unwrap().contains("s3cret7"));
    assert_eq!(upstream.last().headers["accept-encoding"], "br");
}

#[tokio::test]
async fn a_tunnel_repeats_no_key_either() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let proxy = Proxy::start(&upstream).await;
    let caps = format!(
        "{CAPS}
- name: realtime
  type: http
  allow:
    - {{ domains: [model.test], methods: [GET], paths: [/v1/realtime] }}
"
    );
    proxy.publish(&caps, Ok(("x-api-key", KEY)));
    let mut sender = proxy.http1("model.test").await;
    let request = Request::get("/v1/realtime")
        .header("host", "model.test")
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-extensions", "permessage-deflate")
        .body(Full::<Bytes>::default());
    let mut response = sender.send_request(request.unwrap()).await.unwrap();
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    assert!(!upstream.last().headers.contains_key("sec-websocket-extensions"));
    let mut stream = TokioIo::new(hyper::upgrade::on(&mut response).await.unwrap());
    // The upstream echoes in pieces of its own.
    let text = format!("{}{KEY}{KEY}.", "a".repeat(50));
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut echoed = vec![0; text.len()];
    tokio::time::timeout(PATIENCE, stream.read_exact(&mut echoed)).await.unwrap().unwrap();
    assert_eq!(String::from_utf8(echoed).unwrap(), format!("{}{MASKED}{MASKED}.", "a".repeat(50)));
    proxy.rows.with_reason("secret_masked").await;
}
