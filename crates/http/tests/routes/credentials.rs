//! `/v1/credentials`.

use freehold_api::error::ErrorCode;
use serde_json::json;

use crate::context::{Context, names};

#[tokio::test]
async fn a_credential_is_created_seen_without_its_secret_and_deleted() {
    let context = Context::new().await;
    let body = json!({ "name": "main", "provider": "anthropic", "kind": "api_key", "api_key": "the-secret" });
    let made = context.post("/v1/credentials", &context.owner, body.clone()).await;
    assert!(!made.text.contains("the-secret"));
    let made = made.ok();
    assert_eq!(
        names(&made),
        [
            "allow_user_override",
            "created_at",
            "durable_ref",
            "id",
            "kind",
            "name",
            "org_id",
            "provider",
            "provider_config",
            "scopes",
            "status",
            "updated_at",
            "user_id"
        ]
    );
    assert_eq!(made["status"], "active");
    context.post("/v1/credentials", &context.owner, body).await.refused(ErrorCode::NameTaken);
    let path = format!("/v1/credentials/{}", made["id"].as_str().unwrap());
    assert_eq!(context.get(&path, &context.ann).await.ok(), made);
    let listed = context.get("/v1/credentials", &context.ann).await.ok();
    assert_eq!(listed["credentials"], json!([made]));
    context.delete(&path, &context.ann).await.refused(ErrorCode::PermissionDenied);
    assert_eq!(context.delete(&path, &context.owner).await.ok()["status"], "deleted");
    context.get(&path, &context.owner).await.refused(ErrorCode::CredentialNotFound);
}

#[tokio::test]
async fn each_kind_wants_its_own_secret_and_settings() {
    let context = Context::new().await;
    let basic = json!({ "name": "b", "provider": "x", "kind": "basic_auth", "password": "p",
        "provider_config": { "username": "u" } });
    context.post("/v1/credentials", &context.owner, basic).await.ok();
    let query = json!({ "name": "q", "provider": "x", "kind": "query_api_key", "api_key": "k",
        "provider_config": { "parameter": "key" } });
    context.post("/v1/credentials", &context.owner, query).await.ok();
    let cases = [
        (json!({ "kind": "api_key" }), vec!["api_key"]),
        (json!({ "kind": "api_key", "password": "p", "api_key": "k" }), vec!["password"]),
        (json!({ "kind": "basic_auth", "password": "p" }), vec!["provider_config.username"]),
        (
            json!({ "kind": "api_key", "api_key": "k", "provider_config": { "x": "y" } }),
            vec!["provider_config.x"],
        ),
        (json!({ "kind": "oauth2_client_credentials" }), vec!["kind"]),
        (json!({ "kind": "api_key", "api_key": "k", "personal": true }), vec!["personal"]),
        (json!({ "kind": "api_key", "api_key": "k", "scopes": ["a"] }), vec!["scopes"]),
    ];
    for (mut body, fields) in cases {
        body["name"] = json!("c");
        body["provider"] = json!("x");
        context.post("/v1/credentials", &context.owner, body).await.refused_fields(&fields);
    }
}

#[tokio::test]
async fn a_member_without_the_unscoped_scope_creates_none() {
    let context = Context::new().await;
    let body = json!({ "name": "c", "provider": "x", "kind": "api_key", "api_key": "k" });
    context.post("/v1/credentials", &context.ann, body.clone()).await.refused(ErrorCode::PermissionDenied);
    let (_, key) = context.key("full_access").await;
    context.post("/v1/credentials", &key, body).await.refused(ErrorCode::PermissionDenied);
}

#[tokio::test]
async fn a_provider_names_a_credential_of_its_own_kind() {
    let context = Context::new().await;
    let body = json!({ "name": "main", "provider": "openai", "kind": "api_key", "api_key": "k" });
    context.post("/v1/credentials", &context.owner, body).await.ok();
    for name in ["main", "nobody"] {
        let provider =
            json!({ "name": "p", "kind": "anthropic", "domain": "a.test", "credential_name": name });
        context.post("/v1/providers", &context.owner, provider).await.refused_fields(&["credential_name"]);
    }
}
