//! `/v1/secrets`.

use std::sync::atomic::Ordering;

use freehold_api::error::ErrorCode;
use freehold_app::ports::SealError;
use freehold_store::{AuditFilter, Page};
use reqwest::Method;
use serde_json::{Value, json};

use crate::context::{Context, names};

async fn made(context: &Context, name: &str) -> Value {
    let body = json!({ "name": name, "value": "the-secret" });
    context.post("/v1/secrets", &context.owner, body).await.ok()
}

/// What a row of the store keeps.
async fn sealed(context: &Context, name: &'static str) -> Option<Vec<u8>> {
    let read = context.app.store().read(context.organization, move |tx| tx.secret_by_name(name)).await;
    read.map_err(|error: freehold_store::Error| error).unwrap().map(|(_, sealed)| sealed)
}

/// Types and details of the audit rows on secrets, oldest first.
async fn audited(context: &Context) -> Vec<(String, Value)> {
    let page = Page::first(1_000);
    let read = move |tx: &mut freehold_store::OrgRead<'_>| tx.audit_list(&AuditFilter::default(), &page);
    let read = context.app.store().read(context.organization, read).await;
    let rows = read.map_err(|error: freehold_store::Error| error).unwrap();
    let text = serde_json::to_string(&rows.rows.iter().map(|row| &row.event).collect::<Vec<_>>()).unwrap();
    assert!(!text.contains("the-secret") && !text.contains("another"), "{text}");
    let of = |row: freehold_app::AuditRow| {
        (row.event.event_type.to_string(), row.event.detail.unwrap_or_default())
    };
    rows.rows.into_iter().rev().map(of).filter(|(kind, _)| kind.starts_with("secret_")).collect()
}

#[tokio::test]
async fn a_secret_is_created_listed_by_name_given_another_value_and_deleted() {
    let context = Context::new().await;
    let body = json!({ "name": "stripe_Key-1", "value": "the-secret" });
    let reply = context.post("/v1/secrets", &context.owner, body.clone()).await;
    assert!(!reply.text.contains("the-secret"));
    let made = reply.ok();
    let fields = ["created_at", "created_by_user_id", "name", "updated_at", "updated_by_user_id"];
    assert_eq!(names(&made), fields);
    assert!(made["created_by_user_id"].as_str().unwrap().starts_with("user_"));
    context.post("/v1/secrets", &context.owner, body).await.refused(ErrorCode::NameTaken);
    // Any caller sees the names, and nobody a value.
    let (_, key) = context.key("read_only").await;
    for caller in [&context.owner, &context.ann, &key] {
        let listed = context.get("/v1/secrets", caller).await;
        assert!(!listed.text.contains("the-secret"));
        assert_eq!(listed.ok(), json!({ "secrets": [made] }));
    }
    let before = sealed(&context, "stripe_Key-1").await;
    let changed =
        context.put("/v1/secrets/stripe_Key-1", &context.owner, json!({ "value": "another" })).await;
    assert!(!changed.text.contains("another"));
    let changed = changed.ok();
    assert_eq!((&changed["name"], &changed["created_at"]), (&made["name"], &made["created_at"]));
    assert_ne!(changed["updated_at"], made["updated_at"]);
    assert_ne!(sealed(&context, "stripe_Key-1").await, before);
    let deleted = context.delete("/v1/secrets/stripe_Key-1", &context.owner).await.ok();
    assert_eq!(deleted, json!({ "status": "deleted" }));
    context.delete("/v1/secrets/stripe_Key-1", &context.owner).await.refused(ErrorCode::SecretNotFound);
    let detail = json!({ "name": "stripe_Key-1" });
    let expected =
        ["secret_created", "secret_updated", "secret_deleted"].map(|kind| (kind.to_owned(), detail.clone()));
    assert_eq!(audited(&context).await, expected);
}

#[tokio::test]
async fn there_is_no_reading_back() {
    let context = Context::new().await;
    made(&context, "a").await;
    context.get("/v1/secrets/a", &context.owner).await.refused(ErrorCode::MethodNotAllowed);
}

#[tokio::test]
async fn only_the_scope_for_secrets_changes_them() {
    let context = Context::new().await;
    made(&context, "a").await;
    let (_, key) = context.key("full_access").await;
    for caller in [&context.ann, &key] {
        let body = json!({ "name": "b", "value": "v" });
        let refused = context.post("/v1/secrets", caller, body).await.refused(ErrorCode::PermissionDenied);
        assert_eq!(refused["needed"], "secrets:write");
        let body = json!({ "value": "v" });
        context.put("/v1/secrets/a", caller, body).await.refused(ErrorCode::PermissionDenied);
        context.delete("/v1/secrets/a", caller).await.refused(ErrorCode::PermissionDenied);
    }
}

#[tokio::test]
async fn another_organization_has_its_own_secrets_under_the_same_names() {
    let context = Context::new().await;
    made(&context, "a").await;
    let foreigner = context.foreigner().await;
    assert_eq!(context.get("/v1/secrets", &foreigner).await.ok(), json!({ "secrets": [] }));
    let body = json!({ "value": "v" });
    context.put("/v1/secrets/a", &foreigner, body).await.refused(ErrorCode::SecretNotFound);
    context.delete("/v1/secrets/a", &foreigner).await.refused(ErrorCode::SecretNotFound);
    context.post("/v1/secrets", &foreigner, json!({ "name": "a", "value": "v" })).await.ok();
}

#[tokio::test]
async fn a_name_is_an_identifier_and_a_value_has_a_limit() {
    let context = Context::new().await;
    for name in ["", "1a", "a b", "a.b", "-a", &"x".repeat(65)] {
        let body = json!({ "name": name, "value": "v" });
        context.post("/v1/secrets", &context.owner, body).await.refused_fields(&["name"]);
    }
    for value in [String::new(), "x".repeat(65_537), "é".repeat(40_000)] {
        let body = json!({ "name": "a", "value": value });
        context.post("/v1/secrets", &context.owner, body).await.refused_fields(&["value"]);
    }
    let longest = json!({ "name": "a", "value": "x".repeat(65_536) });
    context.post("/v1/secrets", &context.owner, longest).await.ok();
    let body = json!({ "value": "é".repeat(40_000) });
    context.put("/v1/secrets/a", &context.owner, body).await.refused_fields(&["value"]);
    let body = json!({ "value": "v" });
    context
        .put("/v1/secrets/no%20name", &context.owner, body.clone())
        .await
        .refused(ErrorCode::SecretNotFound);
    context.put("/v1/secrets/unknown", &context.owner, body).await.refused(ErrorCode::SecretNotFound);
}

#[tokio::test]
async fn a_creation_that_comes_twice_happens_once_and_leaves_one_value() {
    let context = Context::new().await;
    let send = |value: &'static str| {
        let request =
            context.request(Method::POST, "/v1/secrets", &context.owner).header("Idempotency-Key", "k");
        context.send(request.json(&json!({ "name": "a", "value": value })))
    };
    let first = send("v").await.ok();
    let second = send("v").await;
    assert_eq!(second.headers["idempotency-replayed"], "true");
    assert_eq!(second.ok(), first);
    send("w").await.refused(ErrorCode::IdempotencyConflict);
    // What was kept for the creations that were none is removed again.
    assert_eq!(context.sealer.kept.load(Ordering::Relaxed), 1);
    context.delete("/v1/secrets/a", &context.owner).await.ok();
    assert_eq!(context.sealer.kept.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_store_of_secrets_that_fails_leaves_everything_as_it_was() {
    let context = Context::new().await;
    made(&context, "a").await;
    let before = sealed(&context, "a").await;
    let cases: [(fn() -> SealError, ErrorCode); 3] = [
        (|| SealError::Unavailable("down".into()), ErrorCode::Unavailable),
        (|| SealError::NotConfigured, ErrorCode::SecretsDisabled),
        (|| SealError::Failed("broken".into()), ErrorCode::InternalError),
    ];
    for (fails, code) in cases {
        *context.sealer.fails.lock().unwrap() = Some(fails);
        context.delete("/v1/secrets/a", &context.owner).await.refused(code);
        if code != ErrorCode::SecretsDisabled {
            let body = json!({ "name": "b", "value": "v" });
            context.post("/v1/secrets", &context.owner, body).await.refused(code);
            let body = json!({ "value": "v" });
            context.put("/v1/secrets/a", &context.owner, body).await.refused(code);
        }
    }
    assert_eq!(sealed(&context, "a").await, before);
    assert_eq!(sealed(&context, "b").await, None);
    assert_eq!(audited(&context).await.len(), 1);
    *context.sealer.fails.lock().unwrap() = None;
    context.delete("/v1/secrets/a", &context.owner).await.ok();
}

#[tokio::test]
async fn secrets_are_listed_by_page_oldest_first() {
    let context = Context::new().await;
    for name in ["c", "a", "b"] {
        made(&context, name).await;
    }
    let first = context.get("/v1/secrets?limit=2", &context.ann).await.ok();
    let of = |list: &Value| -> Vec<String> {
        list["secrets"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["name"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(of(&first), ["c", "a"]);
    let path = format!("/v1/secrets?limit=2&cursor={}", first["cursor"].as_str().unwrap());
    let second = context.get(&path, &context.ann).await.ok();
    assert_eq!((of(&second), second.get("cursor")), (vec!["b".to_owned()], None));
    context.get("/v1/secrets?cursor=x", &context.ann).await.refused(ErrorCode::InvalidCursor);
}

#[tokio::test]
async fn an_organization_has_a_limit_of_secrets() {
    let context = Context::new().await;
    let secrets_max = freehold_app::secret::SECRETS_MAX;
    made(&context, "first").await;
    let organization = context.organization;
    let filled = context.app.store().write(organization, move |tx| {
        let (first, sealed) = tx.secret_by_name("first")?.unwrap();
        for n in 1..secrets_max {
            let id = freehold_model::SecretId::from_uuid(uuid::Uuid::now_v7());
            tx.secret_insert(
                &freehold_model::secret::Secret { id, name: format!("n{n}"), ..first.clone() },
                &sealed,
            )?;
        }
        tx.secret_list(&Page::first(2_000)).map(|list| list.len())
    });
    let filled = filled.await.map_err(|error: freehold_store::Error| error);
    assert_eq!(filled.unwrap(), secrets_max as usize);
    let body = json!({ "name": "more", "value": "v" });
    context.post("/v1/secrets", &context.owner, body).await.refused_fields(&["name"]);
    assert_eq!(context.sealer.kept.load(Ordering::Relaxed), 1);
}
