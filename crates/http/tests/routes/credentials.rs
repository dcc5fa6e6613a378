//! `/v1/credentials`.

use freehold_api::error::ErrorCode;
use freehold_model::audit::{AuditEvent, EventType};
use freehold_store::{AuditFilter, Order, Page};
use serde_json::{Value, json};

use crate::context::{Context, names};

#[tokio::test]
async fn a_provider_that_is_almost_known_by_name_is_told_with_the_name_that_was_meant() {
    let context = Context::new().await;
    let new = json!({ "name": "mail", "provider": "gogle", "kind": "oauth2_client_credentials", "client_secret": "s",
        "provider_config": { "client_id": "c" } });
    let details =
        context.post("/v1/credentials", &context.owner, new).await.refused(ErrorCode::ValidationError);
    let why = details["fields"]["provider_config.token_url"].as_str().unwrap();
    assert_eq!(why, "is required: gogle is not known by name; did you mean the provider `google`?");
}

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
        (json!({ "kind": "basic_auth", "password": "p" }), vec!["provider_config.username"]),
        (
            json!({ "kind": "api_key", "api_key": "k", "provider_config": { "x": "y" } }),
            vec!["provider_config.x"],
        ),
        (
            json!({ "kind": "oauth2_client_credentials", "client_secret": "s" }),
            vec!["provider_config.client_id", "provider_config.token_url"],
        ),
        (
            json!({ "kind": "oauth2_client_credentials", "provider_config": { "client_id": "c",
            "token_url": "http://t.test/" } }),
            vec!["client_secret", "provider_config.token_url"],
        ),
        (
            json!({ "kind": "oauth2_authorization_code", "provider_config": { "client_id": "c" } }),
            vec!["provider_config.authorization_url", "provider_config.token_url"],
        ),
        (
            json!({ "kind": "oauth2_client_credentials", "client_secret": "s", "provider": "microsoft",
            "provider_config": { "client_id": "c" } }),
            vec!["provider_config.tenant_id"],
        ),
        (
            json!({ "kind": "oauth2_jwt_bearer_with_subject", "service_account_json": "{}", "provider": "google" }),
            vec!["provider_config.subject"],
        ),
        (json!({ "kind": "aws_sigv4", "secret_access_key": "s" }), vec!["provider_config.access_key_id"]),
        (
            json!({ "kind": "api_key", "api_key": "k", "provider_config": { "header": "host" } }),
            vec!["provider_config.header"],
        ),
        (
            json!({ "kind": "api_key", "api_key": "k", "allow_user_override": true }),
            vec!["allow_user_override"],
        ),
        (
            json!({ "kind": "oauth2_client_credentials", "client_secret": "s", "scopes": ["a b"], "provider": "google",
            "provider_config": { "client_id": "c" } }),
            vec!["scopes"],
        ),
        (json!({ "kind": "api_key", "api_key": "k", "scopes": ["a"] }), vec!["scopes"]),
    ];
    for (mut body, fields) in cases {
        body["name"] = json!("c");
        if body["provider"].is_null() {
            body["provider"] = json!("x");
        }
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

fn consented(name: &str) -> Value {
    json!({ "name": name, "provider": "google", "kind": "oauth2_authorization_code", "client_secret": "s",
        "scopes": ["mail"], "provider_config": { "client_id": "c" } })
}

/// The rows of the audit log, oldest first.
async fn rows(context: &Context) -> Vec<AuditEvent> {
    let filter = AuditFilter { order: Order::Ascending, ..AuditFilter::default() };
    let read =
        context.app.store().read(context.organization, move |tx| tx.audit_list(&filter, &Page::first(1000)));
    let page: Result<_, freehold_store::Error> = read.await;
    page.unwrap().rows.into_iter().map(|row| row.event).collect()
}

/// Begins a consent; answers the state and the cookie.
async fn begin(context: &Context, path: &str, key: &str) -> (String, String) {
    let begun = context.post(&format!("{path}/oauth/start"), key, json!({})).await;
    let cookie = begun.headers["set-cookie"].to_str().unwrap().to_owned();
    for part in ["HttpOnly", "SameSite=Lax", "Max-Age=600", "Path=/"] {
        assert!(cookie.contains(part), "{cookie}");
    }
    let url = begun.ok()["auth_url"].as_str().unwrap().to_owned();
    let state = url.split_once("state=").unwrap().1.to_owned();
    (state, cookie.split(';').next().unwrap().to_owned())
}

/// Comes back from it; answers status and page.
async fn back(context: &Context, query: &str, cookie: Option<&str>) -> (u16, String) {
    let mut request = context.request(reqwest::Method::GET, &format!("/oauth/callback?{query}"), "");
    request = request.header("cookie", cookie.unwrap_or("other=1"));
    let response = request.send().await.unwrap();
    assert_eq!(response.headers()["cache-control"], "no-store");
    (response.status().as_u16(), response.text().await.unwrap())
}

#[tokio::test]
async fn a_person_consents_once_in_the_browser_that_began() {
    let context = Context::new().await;
    let made = context.post("/v1/credentials", &context.owner, consented("mail")).await.ok();
    let path = format!("/v1/credentials/{}", made["id"].as_str().unwrap());
    assert_eq!(
        (&made["status"], &made["next"]),
        (&json!("needs_reauth"), &json!(format!("{path}/oauth/start")))
    );
    let (state, cookie) = begin(&context, &path, &context.owner).await;
    let query = format!("state={state}&code=abc&iss=x&scope=mail");
    let (status, page) = back(&context, &query, None).await;
    assert_eq!(status, 400);
    assert!(page.contains("This browser did not begin"), "{page}");
    assert_eq!(back(&context, &query, Some("freehold-consent=wrong")).await.0, 400);
    let (status, page) = back(&context, &query, Some(&cookie)).await;
    assert_eq!(status, 200, "{page}");
    let active = context.get(&path, &context.owner).await.ok();
    assert_eq!((&active["status"], &active["last_minted_status"]), (&json!("active"), &json!("ok")));
    assert!(active["next"].is_null());
    assert_eq!(back(&context, &query, Some(&cookie)).await.0, 400);
    let rows = rows(&context).await;
    let types: Vec<EventType> = rows.iter().rev().take(3).map(|row| row.event_type).collect();
    use EventType as E;
    assert_eq!(types, [E::CredentialStatusChanged, E::CredentialConsented, E::CredentialCreated]);
}

#[tokio::test]
async fn what_an_issuer_says_is_shown_harmless_and_changes_nothing() {
    let context = Context::new().await;
    let made = context.post("/v1/credentials", &context.owner, consented("mail")).await.ok();
    let path = format!("/v1/credentials/{}", made["id"].as_str().unwrap());
    let (state, cookie) = begin(&context, &path, &context.owner).await;
    let query =
        format!("state={state}&error=access_denied&error_description=%3Cscript%3Ealert(1)%3C/script%3E");
    let (status, page) = back(&context, &query, Some(&cookie)).await;
    assert_eq!(status, 400);
    assert!(
        page.contains("access_denied") && page.contains("&lt;script&gt;") && !page.contains("<script"),
        "{page}"
    );
    let (state, cookie) = begin(&context, &path, &context.owner).await;
    let (_, page) = back(&context, &format!("state={state}&error=%3Cb%3E"), Some(&cookie)).await;
    assert!(!page.contains("<b>"), "{page}");
    let (state, cookie) = begin(&context, &path, &context.owner).await;
    assert_eq!(back(&context, &format!("state={state}&code=refused"), Some(&cookie)).await.0, 400);
    let after = context.get(&path, &context.owner).await.ok();
    assert_eq!(
        (&after["status"], &after["last_minted_status"]),
        (&json!("needs_reauth"), &json!("invalid_grant"))
    );
    for query in ["", "state=x", "state=org_0.x", "code=1&state=%ff"] {
        assert_eq!(back(&context, query, Some(&cookie)).await.0, 400, "{query}");
    }
}

#[tokio::test]
async fn the_last_consent_that_was_begun_counts() {
    let context = Context::new().await;
    let made = context.post("/v1/credentials", &context.owner, consented("mail")).await.ok();
    let path = format!("/v1/credentials/{}", made["id"].as_str().unwrap());
    let (first, first_cookie) = begin(&context, &path, &context.owner).await;
    let (second, second_cookie) = begin(&context, &path, &context.owner).await;
    assert_eq!(back(&context, &format!("state={first}&code=a"), Some(&first_cookie)).await.0, 400);
    assert_eq!(back(&context, &format!("state={second}&code=a"), Some(&second_cookie)).await.0, 200);
}

#[tokio::test]
async fn only_what_a_person_consents_to_is_begun_and_only_by_who_may() {
    let context = Context::new().await;
    let key = json!({ "name": "k", "provider": "x", "kind": "api_key", "api_key": "k" });
    let key = context.post("/v1/credentials", &context.owner, key).await.ok();
    let start = |id: &Value| format!("/v1/credentials/{}/oauth/start", id.as_str().unwrap());
    context.post(&start(&key["id"]), &context.owner, json!({})).await.refused(ErrorCode::InvalidState);
    let made = context.post("/v1/credentials", &context.owner, consented("mail")).await.ok();
    context.post(&start(&made["id"]), &context.ann, json!({})).await.refused(ErrorCode::PermissionDenied);
    let unknown = json!("cred_00000000000000000000000000000000");
    context.post(&start(&unknown), &context.owner, json!({})).await.refused(ErrorCode::CredentialNotFound);
}

#[tokio::test]
async fn a_member_has_an_override_where_the_organization_allows_it_and_nobody_else_sees_it() {
    let context = Context::new().await;
    let mine = json!({ "name": "mail", "provider": "google", "kind": "oauth2_authorization_code", "personal": true });
    context.post("/v1/credentials", &context.ann, mine.clone()).await.refused_fields(&["name"]);
    let mut shared = consented("mail");
    shared["allow_user_override"] = json!(true);
    context.post("/v1/credentials", &context.owner, shared).await.ok();
    let mut other = mine.clone();
    other["provider"] = json!("github");
    context.post("/v1/credentials", &context.ann, other).await.refused_fields(&["provider"]);
    let (_, key) = context.key("full_access").await;
    context.post("/v1/credentials", &key, mine.clone()).await.refused(ErrorCode::PermissionDenied);
    let made = context.post("/v1/credentials", &context.ann, mine.clone()).await.ok();
    context.post("/v1/credentials", &context.ann, mine).await.refused(ErrorCode::NameTaken);
    // It is under the organization's client.
    assert_eq!((&made["provider_config"]["client_id"], &made["scopes"]), (&json!("c"), &json!(["mail"])));
    assert_eq!(made["user_id"], context.get("/v1/me/session", &context.ann).await.ok()["user_id"]);
    let path = format!("/v1/credentials/{}", made["id"].as_str().unwrap());
    context.get(&path, &context.bob).await.refused(ErrorCode::CredentialNotFound);
    context.delete(&path, &context.bob).await.refused(ErrorCode::CredentialNotFound);
    context
        .post(&format!("{path}/oauth/start"), &context.bob, json!({}))
        .await
        .refused(ErrorCode::CredentialNotFound);
    // The owner sees it, and cannot put an account of its own there.
    context.get(&path, &context.owner).await.ok();
    context
        .post(&format!("{path}/oauth/start"), &context.owner, json!({}))
        .await
        .refused(ErrorCode::InvalidState);
    let (state, cookie) = begin(&context, &path, &context.ann).await;
    assert_eq!(back(&context, &format!("state={state}&code=a"), Some(&cookie)).await.0, 200);
    let listed = |reply: Value| reply["credentials"].as_array().unwrap().len();
    assert_eq!(listed(context.get("/v1/credentials", &context.ann).await.ok()), 2);
    assert_eq!(listed(context.get("/v1/credentials", &context.bob).await.ok()), 1);
    assert_eq!(context.delete(&path, &context.ann).await.ok()["status"], "deleted");
}

#[tokio::test]
async fn pages_of_a_key_lead_past_what_members_have_of_their_own() {
    let context = Context::new().await;
    let mut shared = consented("mail");
    shared["allow_user_override"] = json!(true);
    context.post("/v1/credentials", &context.owner, shared).await.ok();
    let own = json!({ "name": "mail", "provider": "google", "kind": "oauth2_authorization_code", "personal": true });
    context.post("/v1/credentials", &context.ann, own).await.ok();
    context.post("/v1/credentials", &context.owner, consented("late")).await.ok();
    let (_, key) = context.key("read_only").await;
    let first = context.get("/v1/credentials?limit=1", &key).await.ok();
    let cursor = first["cursor"].as_str().unwrap();
    let second = context.get(&format!("/v1/credentials?limit=1&cursor={cursor}"), &key).await.ok();
    let name = |page: &Value| page["credentials"][0]["name"].clone();
    assert_eq!(
        (name(&first), name(&second), &second["cursor"]),
        (json!("mail"), json!("late"), &Value::Null)
    );
}

#[tokio::test]
async fn the_issuer_of_a_deleted_credential_is_asked_to_take_back_what_it_gave_and_a_row_says_so() {
    let context = Context::new().await;
    let made = context.post("/v1/credentials", &context.owner, consented("mail")).await.ok();
    context.delete(&format!("/v1/credentials/{}", made["id"].as_str().unwrap()), &context.owner).await.ok();
    let row = loop {
        let newest = rows(&context).await.pop().unwrap();
        if newest.event_type == EventType::CredentialRevocation {
            break newest;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(row.detail.unwrap()["outcome"], "revoked");
    assert_eq!(*context.issuers.revoked.lock().unwrap(), ["mail"]);
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
