//! Who calls.

use freehold_api::error::ErrorCode;
use reqwest::Method;
use serde_json::json;

use crate::context::{Context, names};

#[tokio::test]
async fn every_guarded_operation_wants_a_credential() {
    let context = Context::new().await;
    for operation in freehold_api::operations().filter(|one| one.guard != freehold_api::Guard::Public) {
        let method = Method::from_bytes(operation.method.as_str().as_bytes()).unwrap();
        let path = operation.path.replace(['{', '}'], "");
        let reply = context.send(context.anonymous(method, &path)).await;
        assert_eq!(reply.headers["www-authenticate"], "Bearer", "{}", operation.id);
        reply.refused(ErrorCode::Unauthorized);
    }
}

#[tokio::test]
async fn a_key_is_accepted_with_and_without_its_scheme() {
    let context = Context::new().await;
    for value in [format!("Bearer {}", context.ann), format!("bearer {}", context.ann), context.ann.clone()] {
        let request = context.anonymous(Method::GET, "/v1/me/session").header("authorization", value);
        context.send(request).await.ok();
    }
    for value in ["Bearer", "Bearer ", "Bearer sk_unknown", "pt_", "x", "Basic eDp5"] {
        let request = context.anonymous(Method::GET, "/v1/me/session").header("authorization", value);
        context.send(request).await.refused(ErrorCode::Unauthorized);
    }
}

#[tokio::test]
async fn a_key_in_the_query_is_read_on_event_streams_only() {
    let context = Context::new().await;
    let path = format!("/v1/me/session?api_key={}", context.ann);
    context.send(context.anonymous(Method::GET, &path)).await.refused(ErrorCode::Unauthorized);
    let path = format!("/v1/workspaces?api_key={}", context.ann);
    let refused = context.send(context.anonymous(Method::GET, &path)).await;
    assert!(!refused.text.contains(&context.ann));
    refused.refused_fields(&["api_key"]);
    let path = format!("{}/v1/activity/stream?api_key={}", context.url, context.ann);
    assert_eq!(reqwest::get(path).await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_revoked_key_is_refused_by_the_very_next_request() {
    let context = Context::new().await;
    let (id, key) = context.key("full_access").await;
    assert!(key.starts_with("sk_") && key.len() == 46, "{key}");
    for _ in 0..3 {
        context.get("/v1/me/session", &key).await.ok();
    }
    let path = format!("/v1/api-keys/{id}");
    assert_eq!(context.delete(&path, &context.owner).await.ok()["status"], "revoked");
    context.get("/v1/me/session", &key).await.refused(ErrorCode::Unauthorized);
    context.delete(&path, &context.owner).await.refused(ErrorCode::ApiKeyNotFound);
}

#[tokio::test]
async fn the_value_of_a_key_is_shown_once() {
    let context = Context::new().await;
    let body = json!({ "label": "ci", "permission_set": "read_only" });
    let made = context.post("/v1/api-keys", &context.owner, body).await.ok();
    assert_eq!(names(&made), ["created_at", "id", "label", "org_id", "permission_set", "prefix", "value"]);
    let value = made["value"].as_str().unwrap();
    assert_eq!(made["prefix"], format!("sk_...{}", &value[value.len() - 4..]));
    let listed = context.get("/v1/api-keys", &context.owner).await;
    assert!(!listed.text.contains(value));
    assert_eq!(listed.ok()["api_keys"][0]["label"], "ci");
    context.get("/v1/api-keys", &context.ann).await.refused(ErrorCode::PermissionDenied);
}

#[tokio::test]
async fn the_session_of_a_person_and_of_a_key_say_who_they_are() {
    let context = Context::new().await;
    let me = context.get("/v1/me/session", &context.ann).await.ok();
    assert_eq!((&me["email"], &me["role"]), (&json!("ann@example.test"), &json!("member")));
    assert_eq!(me["memberships"][0]["billing_status"], "active");
    assert!(me["permissions"].as_array().unwrap().contains(&json!("workspace:read:own")));
    let (_, key) = context.key("submit_observe").await;
    let me = context.get("/v1/me/session", &key).await.ok();
    assert_eq!((&me["user_id"], &me["email"], &me["role"]), (&json!("system"), &json!(""), &json!("")));
    assert_eq!(me["api_key_permission_set"], "submit_observe");
    assert_eq!(me["permissions"], json!(["workspace:read", "workspace:write", "tasks:write", "audit:read"]));
}

#[tokio::test]
async fn a_key_that_is_asked_for_twice_is_made_once() {
    let context = Context::new().await;
    let send = async || {
        let request =
            context.request(Method::POST, "/v1/api-keys", &context.owner).header("Idempotency-Key", "k");
        context.send(request.json(&json!({ "label": "ci", "permission_set": "read_only" }))).await
    };
    send().await.ok();
    send().await.refused(ErrorCode::IdempotencyConflict);
    let listed = context.get("/v1/api-keys", &context.owner).await.ok();
    assert_eq!(listed["api_keys"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn the_owner_is_made_at_the_first_start_only() {
    let context = Context::new().await;
    assert!(!context.app.bootstrap("owner@example.test", |_| Ok(())).await.unwrap());
    let twice = context.app.member_add(
        context.organization,
        "ann@example.test",
        freehold_model::member::MemberRole::Owner,
    );
    assert!(matches!(twice.await, Err(freehold_app::Error::NameTaken { .. })));
    for bad in ["", "ann", "@x", "a@", "a b@x", "a@b@c"] {
        let added =
            context.app.member_add(context.organization, bad, freehold_model::member::MemberRole::Member);
        assert!(matches!(added.await, Err(freehold_app::Error::Invalid { .. })), "{bad}");
    }
}
