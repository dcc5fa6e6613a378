//! Credentials: put on here, never seen in the pod, never mixed with another's.

use std::sync::Arc;

use freehold_egress::{Injection, Unavailable};
use freehold_model::provider::PLACEHOLDER_KEY as PLACEHOLDER;
use http::{Request, StatusCode};
use http_body_util::Full;

use crate::{
    harness::{CAPS, Kept, Proxy, read},
    upstream::{Speaks, Upstream},
};

const INFERENCE: &str = "/v1/messages";

#[tokio::test]
async fn the_providers_credential_is_put_on_with_and_without_a_placeholder_over_both_versions() {
    for speaks in [Speaks::Http1, Speaks::Http2] {
        let upstream = Upstream::start(speaks).await;
        let proxy = Proxy::start(&upstream).await;
        let bearer = format!("Bearer {PLACEHOLDER}");
        for header in [None, Some(("x-api-key", PLACEHOLDER)), Some(("authorization", bearer.as_str()))] {
            let mut request = Request::post(INFERENCE);
            if let Some((name, value)) = header {
                request = request.header(name, value);
            }
            assert_eq!(proxy.send("model.test", request).await.status, StatusCode::OK);
            let seen = upstream.last();
            assert_eq!(seen.headers["x-api-key"], "s3cret");
            assert!(!seen.headers.contains_key("authorization"));
        }
        let mut sender = proxy.http2("model.test").await;
        let request =
            Request::post(format!("https://model.test{INFERENCE}")).header("x-api-key", PLACEHOLDER);
        let answer = read(sender.send_request(request.body(Full::default()).unwrap()).await.unwrap()).await;
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(upstream.last().headers["x-api-key"], "s3cret");
        let row = proxy.rows.with_reason("rule_matched").await;
        assert_eq!((row.auth_applied, row.transforms_applied), (vec!["main".to_owned()], Some(1)));
        assert_eq!(row.capability_name.as_deref(), Some("_provider"));
    }
}

#[tokio::test]
async fn a_key_in_the_query_is_put_on_and_stays_out_of_the_audit_row() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let proxy = Proxy::start(&upstream).await;
    proxy.publish(CAPS, Ok(("?key", "s3cret&more")));
    let path = format!("{INFERENCE}?beta=true&key={PLACEHOLDER}");
    assert_eq!(proxy.send("model.test", Request::post(path)).await.status, StatusCode::OK);
    assert_eq!(upstream.last().target, "/v1/messages?beta=true&key=s3cret%26more");
    let row = proxy.rows.with_reason("rule_matched").await;
    assert_eq!(row.path.as_deref(), Some(INFERENCE));
    assert!(!serde_json::to_string(&row).unwrap().contains("s3cret"));
}

#[tokio::test]
async fn another_key_for_the_providers_domain_is_denied() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let proxy = Proxy::start(&upstream).await;
    for (name, value) in [("x-api-key", "sk-mine"), ("authorization", "Bearer sk-mine")] {
        let answer = proxy.send("model.test", Request::post(INFERENCE).header(name, value)).await;
        assert_eq!((answer.status, answer.reason().as_str()), (StatusCode::FORBIDDEN, "foreign_credential"));
    }
    assert_eq!(upstream.count(), 0);
    let row = proxy.rows.with_reason("foreign_credential").await;
    assert!(!serde_json::to_string(&row).unwrap().contains("sk-mine"));
}

#[tokio::test]
async fn a_connection_header_cannot_take_the_credential_off() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let proxy = Proxy::start(&upstream).await;
    let request = Request::post(INFERENCE).header("connection", "x-api-key, x-mine").header("x-mine", "1");
    assert_eq!(proxy.send("model.test", request).await.status, StatusCode::OK);
    let seen = upstream.last();
    assert_eq!(seen.headers["x-api-key"], "s3cret");
    assert!(!seen.headers.contains_key("x-mine"));
}

#[tokio::test]
async fn a_clients_own_key_for_another_domain_passes_untouched() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let proxy = Proxy::start(&upstream).await;
    let request = Request::get("/open/a").header("authorization", "Bearer narrow");
    assert_eq!(proxy.send("api.test", request).await.status, StatusCode::OK);
    let seen = upstream.last();
    assert_eq!(seen.headers["authorization"], "Bearer narrow");
    assert!(!seen.headers.contains_key("x-api-key"));
}

#[tokio::test]
async fn a_credential_that_cannot_be_resolved_denies() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let proxy = Proxy::start(&upstream).await;
    proxy.publish(CAPS, Err(Unavailable("test")));
    let answer = proxy.send("model.test", Request::post(INFERENCE)).await;
    assert_eq!((answer.status, answer.reason().as_str()), (StatusCode::FORBIDDEN, "auth_unavailable"));
    assert_eq!(upstream.count(), 0);
    let row = proxy.rows.with_reason("auth_unavailable").await;
    assert_eq!(row.auth_failures["main"], "auth_unavailable");
}

#[tokio::test]
async fn a_credential_that_the_upstream_refuses_is_told_to_whoever_keeps_it_and_no_other_status_is() {
    for (status, told) in [("401 Unauthorized", vec!["main".to_owned()]), ("403 Forbidden", Vec::new())] {
        let upstream =
            Upstream::scripted(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n"), false).await;
        let proxy = Proxy::start(&upstream).await;
        let kept = Kept {
            injections: [("main", Injection::header("x-api-key", "s3cret").unwrap().into())].into(),
            ..Kept::default()
        };
        let refused = Arc::clone(&kept.refused);
        proxy.publish_with(CAPS, kept);
        let answer = proxy.send("model.test", Request::post(INFERENCE)).await;
        assert_eq!(answer.status.as_str(), &status[..3]);
        assert_eq!(*refused.lock().unwrap(), told, "{status}");
    }
}

#[tokio::test]
async fn only_inference_is_allowed_on_the_providers_domain() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let proxy = Proxy::start(&upstream).await;
    for (method, path) in [("POST", "/v1/files"), ("GET", "/v1/organizations/me"), ("GET", "/v1/messages")] {
        let answer = proxy.send("model.test", Request::builder().method(method).uri(path)).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{method} {path}");
    }
    assert_eq!(proxy.get("model.test", "/v1/models/claude").await.status, StatusCode::OK);
}
