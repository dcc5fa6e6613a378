//! What goes wrong, on purpose.

use std::sync::atomic::Ordering;

use freehold_api::error::ErrorCode;
use freehold_http::Options;
use reqwest::Method;
use serde_json::json;

use crate::context::Context;

#[tokio::test]
async fn a_body_that_is_not_one_json_object_is_refused() {
    let context = Context::new().await;
    let deep = format!("{{\"name\":{}1{}}}", "[".repeat(5000), "]".repeat(5000));
    let bodies: &[&[u8]] = &[
        b"",
        b"{",
        b"{\"a\":1,\"a\":2}",
        b"{\"name\":\"\xff\xfe\"}",
        b"{} trailing",
        b"nul",
        deep.as_bytes(),
    ];
    for body in bodies {
        let request = context.request(Method::POST, "/v1/providers", &context.owner);
        let request = request.header("content-type", "application/json").body(body.to_vec());
        context.send(request).await.refused(ErrorCode::InvalidJson);
    }
    for body in ["[]", "null", "3", "\"x\""] {
        let request = context.request(Method::POST, "/v1/providers", &context.owner);
        let request = request.header("content-type", "application/json").body(body);
        context.send(request).await.refused_fields(&["body"]);
    }
}

#[tokio::test]
async fn every_bad_field_is_told_at_once() {
    let context = Context::new().await;
    let body = json!({ "name": "Not A Slug", "kind": "telepathy", "display_name": 7, "colour": "red" });
    let reply = context.post("/v1/providers", &context.owner, body).await;
    reply.refused_fields(&["colour", "display_name", "domain", "kind", "name"]);
}

#[tokio::test]
async fn a_refusal_does_not_repeat_the_secret_it_refuses() {
    let context = Context::new().await;
    let secret = format!("{}\u{7}", "very-secret".repeat(1000));
    let body = json!({ "name": "c", "provider": "anthropic", "kind": "api_key", "api_key": secret });
    let reply = context.post("/v1/credentials", &context.owner, body).await;
    assert!(!reply.text.contains("very-secret"), "{}", reply.text);
    reply.refused_fields(&["api_key"]);
}

#[tokio::test]
async fn another_content_type_is_refused() {
    let context = Context::new().await;
    for media_type in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"] {
        let request = context.request(Method::POST, "/v1/providers", &context.owner);
        let request = request.header("content-type", media_type).body("{}");
        context.send(request).await.refused(ErrorCode::UnsupportedMediaType);
    }
    let request = context.request(Method::POST, "/v1/tasks", &context.owner);
    let request = request.header("content-type", "multipart/form-data").body("{}");
    context.send(request).await.refused(ErrorCode::UnsupportedMediaType);
}

#[tokio::test]
async fn a_large_body_is_told_so_also_to_a_client_that_reads_late() {
    let context = Context::new().await;
    let body = format!("{{\"name\":\"{}\"}}", "x".repeat(10 * 1024 * 1024));
    let request = context.request(Method::POST, "/v1/providers", &context.owner);
    let request = request.header("content-type", "application/json").body(body.clone());
    context.send(request).await.refused(ErrorCode::PayloadTooLarge);
    let request = context.request(Method::POST, "/v1/providers", "sk_unknown").body(body);
    context.send(request).await.refused(ErrorCode::Unauthorized);
}

#[tokio::test]
async fn bad_parameters_are_told_by_name() {
    let context = Context::new().await;
    for (query, field) in [
        ("limit=0", "limit"),
        ("limit=many", "limit"),
        ("limit=10001", "limit"),
        ("include_archived=yes", "include_archived"),
        ("limit=1&limit=2", "limit"),
        ("colour=red", "colour"),
        ("role_name=%ff", "query"),
    ] {
        context.get(&format!("/v1/workspaces?{query}"), &context.owner).await.refused_fields(&[field]);
    }
}

#[tokio::test]
async fn routes_and_methods_that_are_not_there_have_the_envelope() {
    let context = Context::new().await;
    for path in ["/", "/v1", "/v1/", "/v2/workspaces", "/v1/workspaces/", "/api/v1/workspaces", "/v1/%00"] {
        context.get(path, &context.owner).await.refused(ErrorCode::NotFound);
    }
    let reply = context.delete("/v1/workspaces", &context.owner).await;
    assert!(reply.headers["allow"].to_str().unwrap().contains("GET"));
    reply.refused(ErrorCode::MethodNotAllowed);
}

#[tokio::test]
async fn unknown_fields_are_refused_and_those_the_server_sets_are_ignored() {
    let context = Context::new().await;
    let role = context.role().await;
    let path = format!("/v1/agent-roles/{}", role["id"].as_str().unwrap());
    let mut whole = role.clone();
    whole.as_object_mut().unwrap().remove("name");
    whole["description"] = json!("changed");
    let patched = context.patch(&path, &context.owner, whole).await.ok();
    assert_eq!((&patched["description"], &patched["created_at"]), (&json!("changed"), &role["created_at"]));
    context.patch(&path, &context.owner, json!({ "name": "other" })).await.refused_fields(&["name"]);
}

#[tokio::test]
async fn a_panic_is_answered_and_the_server_goes_on() {
    let context = Context::new().await;
    context.role().await;
    let workspace = context.ready(&context.ann).await;
    let path = format!("/v1/workspaces/{workspace}/session");
    context.agent.panics.store(true, Ordering::Relaxed);
    let reply = context.get(&path, &context.ann).await;
    assert!(!reply.text.contains("told to panic"));
    reply.refused(ErrorCode::InternalError);
    context.agent.panics.store(false, Ordering::Relaxed);
    context.get(&path, &context.ann).await.ok();
}

#[tokio::test]
async fn a_store_that_is_gone_is_an_error_and_no_silence() {
    let context = Context::new().await;
    context.get("/v1/me/session", &context.ann).await.ok();
    context.app.store().close().await;
    context.get("/v1/workspaces", &context.ann).await.refused(ErrorCode::Unavailable);
    context.send(context.anonymous(Method::GET, "/health")).await.refused(ErrorCode::Unavailable);
}

#[tokio::test]
async fn a_full_disk_is_told_and_what_is_there_is_still_read() {
    if crate::POSTGRESQL {
        // The disk of another server is not ours to limit.
        return;
    }
    const DISK_BYTES: u64 = 4 * 1024 * 1024;
    const TASK_BYTES: usize = 100_000;
    const TASKS_MAX: usize = 42;
    let context = Context::with_disk(Options::default(), Some(DISK_BYTES)).await;
    context.role().await;
    let workspace = context.workspace(&context.ann).await;
    let path = format!("/v1/workspaces/{workspace}/tasks");
    let body = json!({ "description": "x".repeat(TASK_BYTES) });
    let mut stored = 0;
    for _ in 0..TASKS_MAX {
        let reply = context.post(&path, &context.ann, body.clone()).await;
        if reply.status >= 400 {
            reply.refused(ErrorCode::Unavailable);
            break;
        }
        stored += 1;
    }
    let tasks = context.get(&format!("{path}?limit=100"), &context.ann).await.ok();
    assert!(stored > 0);
    assert_eq!(tasks.as_array().unwrap().len(), stored, "what was answered is there, and no more");
}
