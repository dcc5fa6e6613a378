//! `/v1/config`, `/v1/providers`, `/v1/agent-roles`, and the server's own pages.

use freehold_api::error::ErrorCode;
use reqwest::Method;
use serde_json::{Value, json};

use crate::context::Context;

#[tokio::test]
async fn the_defaults_are_told() {
    let context = Context::new().await;
    let config = context.get("/v1/config", &context.ann).await.ok();
    let redirect = "http://freehold.test/oauth/callback";
    let defaults =
        json!({ "task_timeout_seconds": 3600, "idle_timeout_seconds": 1800, "oauth_redirect_uri": redirect });
    assert_eq!(config, json!({ "defaults": defaults }));
}

#[tokio::test]
async fn the_document_is_served_and_the_reference_loads_nothing_from_elsewhere() {
    let context = Context::new().await;
    let document = context.send(context.anonymous(Method::GET, "/v1/openapi.json")).await.ok();
    assert_eq!(document, freehold_api::openapi());
    let page = context.send(context.anonymous(Method::GET, "/v1/docs")).await;
    assert_eq!(page.headers["content-type"], "text/html; charset=utf-8");
    assert!(!page.text.contains("<script") && !page.text.contains("src="));
    for operation in freehold_api::operations() {
        assert!(page.text.contains(&format!("id=\"{}\"", operation.id)), "{}", operation.id);
    }
}

#[tokio::test]
async fn health_and_figures_need_no_credential() {
    let context = Context::new().await;
    assert_eq!(context.send(context.anonymous(Method::GET, "/health")).await.ok()["status"], "ok");
    let figures = context.send(context.anonymous(Method::GET, "/metrics")).await;
    assert!(
        figures.text.contains("freehold_http_requests_total{operation=\"health_view\",status=\"200\"} 1\n")
    );
    assert!(figures.text.ends_with("# EOF\n"));
}

#[tokio::test]
async fn a_patch_tells_absent_from_null() {
    let context = Context::new().await;
    let provider = json!({
        "name": "models", "kind": "openai", "domain": "models.test:8443", "display_name": "Models",
        "default_model": "m-1", "config": { "wire": "responses" },
    });
    let provider = context.post("/v1/providers", &context.owner, provider).await.ok();
    let path = format!("/v1/providers/{}", provider["id"].as_str().unwrap());
    let patched = context.patch(&path, &context.owner, json!({ "display_name": null })).await.ok();
    assert_eq!((patched.get("display_name"), &patched["default_model"]), (None, &json!("m-1")));
    let body = json!({ "config": { "wire": "chat_completions" } });
    assert_eq!(context.patch(&path, &context.owner, body).await.ok()["config"]["wire"], "chat_completions");
    let body = json!({ "config": { "wire": null } });
    assert_eq!(context.patch(&path, &context.owner, body).await.ok().get("config"), None);
    let body = json!({ "config": { "wire": "smoke" } });
    context.patch(&path, &context.owner, body).await.refused_fields(&["config.wire"]);
    context.patch(&path, &context.owner, json!({ "domain": null })).await.refused_fields(&["domain"]);
    assert_eq!(context.get(&path, &context.ann).await.ok()["domain"], "models.test:8443");
}

#[tokio::test]
async fn names_are_taken_once_and_only_by_those_who_may() {
    let context = Context::new().await;
    let role = context.role().await;
    let provider = json!({ "name": "models", "kind": "anthropic", "domain": "models.test" });
    context.post("/v1/providers", &context.owner, provider.clone()).await.refused(ErrorCode::NameTaken);
    context.post("/v1/providers", &context.ann, provider).await.refused(ErrorCode::PermissionDenied);
    let again = json!({ "name": "worker", "provider_id": role["provider_id"] });
    context.post("/v1/agent-roles", &context.owner, again).await.refused(ErrorCode::NameTaken);
}

#[tokio::test]
async fn what_is_not_built_yet_is_refused_and_not_ignored() {
    let context = Context::new().await;
    let role = context.role().await;
    let provider = json!({ "name": "g", "kind": "gemini", "domain": "g.test" });
    context.post("/v1/providers", &context.owner, provider).await.refused_fields(&["kind"]);
    let path = format!("/v1/agent-roles/{}", role["id"].as_str().unwrap());
    let body = json!({ "pool_policy": "static", "pool_size": 2, "pack_ids": ["pack_x"] });
    context.patch(&path, &context.owner, body).await.refused_fields(&[
        "pack_ids",
        "pool_policy",
        "pool_size",
    ]);
    context.patch(&path, &context.owner, json!({ "pool_policy": "", "pack_ids": [] })).await.ok();
}

#[tokio::test]
async fn a_text_that_is_not_of_its_form_is_told_what_it_must_be() {
    let context = Context::new().await;
    let provider = json!({ "name": "a b", "kind": "anthropic", "domain": "https://models.test/v1" });
    let details =
        context.post("/v1/providers", &context.owner, provider).await.refused(ErrorCode::ValidationError);
    let told = |field: &str| details["fields"][field].as_str().unwrap().to_owned();
    assert_eq!(
        told("domain"),
        "must be a host name in lowercase without scheme or path, with a port when it is not 443, e.g. `api.example.com`"
    );
    assert!(told("name").starts_with("must be lowercase letters and digits"), "{details}");
}

#[tokio::test]
async fn a_policy_that_cannot_be_read_is_not_stored() {
    let context = Context::new().await;
    let role = context.role().await;
    let path = format!("/v1/agent-roles/{}", role["id"].as_str().unwrap());
    for capabilities in ["{", "- name: x", "hello"] {
        let body = json!({ "capabilities": capabilities });
        context.patch(&path, &context.owner, body).await.refused_fields(&["capabilities"]);
    }
    let good = "- name: docs\n  type: http\n  allow:\n    - domains: [docs.test]\n      methods: [GET]\n";
    let patched = context.patch(&path, &context.owner, json!({ "capabilities": good })).await.ok();
    assert_eq!(patched["capabilities"], good);
}

#[tokio::test]
async fn a_policy_may_name_what_is_not_there_yet_and_the_row_says_what_is_missing() {
    let context = Context::new().await;
    let role = context.role().await;
    let secret = json!({ "name": "here", "value": "v" });
    context.post("/v1/secrets", &context.owner, secret).await.ok();
    let capabilities = r#"
- name: api
  type: http
  allow: [{domains: [api.test], methods: [GET]}]
  transforms:
    - name: key
      auth: {credential: nobodys}
      headers: {set: {x-a: 'secrets["here"]', x-b: 'secrets["gone"]'}}
"#;
    let path = format!("/v1/agent-roles/{}", role["id"].as_str().unwrap());
    context.patch(&path, &context.owner, json!({ "capabilities": capabilities })).await.ok();
    let rows = context.get("/v1/audit?limit=1", &context.owner).await.ok();
    let detail = &rows["events"][0]["detail"];
    assert_eq!(detail["missing_credentials"], json!(["nobodys"]));
    assert_eq!(detail["missing_secrets"], json!(["gone"]));
    context.patch(&path, &context.owner, json!({ "description": "x" })).await.ok();
    let rows = context.get("/v1/audit?limit=1", &context.owner).await.ok();
    assert_eq!(rows["events"][0]["detail"].get("missing_secrets"), None, "{rows}");
}

#[tokio::test]
async fn a_row_of_a_role_or_provider_says_which_capabilities_are_in_force_from_it_on() {
    let context = Context::new().await;
    let role = context.role().await;
    let digest = async || {
        let rows = context.get("/v1/audit?limit=1", &context.owner).await.ok();
        rows["events"][0]["detail"]["capabilities_digest"].clone()
    };
    // As `sha256sum` has them.
    let documents = [
        ("[]\n", "37517e5f3dc66819f61f5a7bb8ace1921282415f10551d2defa5c3eb0985b570"),
        ("# nothing\n[]\n", "54b082d56e4134c73d0c532bea2bf42be8de078d9f07aed0b522a921c4f19585"),
    ];
    let paths = [("agent-roles", &role["id"]), ("providers", &role["provider_id"])];
    for (kind, id) in paths {
        let path = format!("/v1/{kind}/{}", id.as_str().unwrap());
        for (text, sha256) in documents {
            context.patch(&path, &context.owner, json!({ "capabilities": text })).await.ok();
            assert_eq!(digest().await, format!("sha256:{sha256}"));
            context.patch(&path, &context.owner, json!({ "display_name": "x" })).await.ok();
            assert_eq!(digest().await, format!("sha256:{sha256}"));
        }
        context.patch(&path, &context.owner, json!({ "capabilities": null })).await.ok();
        assert_eq!(digest().await, Value::Null);
    }
}

#[tokio::test]
async fn archiving_cascades_and_is_refused_while_workspaces_run() {
    let context = Context::new().await;
    let role = context.role().await;
    let role_path = format!("/v1/agent-roles/{}", role["id"].as_str().unwrap());
    let provider_path = format!("/v1/providers/{}", role["provider_id"].as_str().unwrap());
    let post = async |path: String| context.post(&path, &context.owner, json!({})).await;
    let workspace = context.ready(&context.ann).await;
    let details = post(format!("{provider_path}/archive")).await.refused(ErrorCode::WorkspacesActive);
    assert_eq!(details["workspaces"], 1);
    post(format!("{role_path}/archive")).await.refused(ErrorCode::WorkspacesActive);
    post(format!("{role_path}/unarchive")).await.refused(ErrorCode::NotArchived);
    assert_eq!(post(format!("{role_path}/stop-workspaces")).await.ok()["stopping"], 1);
    context.happen(&workspace, freehold_model::workspace::Event::PodGone).await;
    let archived = post(format!("{provider_path}/archive")).await.ok();
    assert_eq!(archived, json!({ "status": "archived", "cascaded_roles": 1 }));
    assert_eq!(context.get("/v1/agent-roles", &context.ann).await.ok()["agent_roles"], json!([]));
    let all = context.get("/v1/agent-roles?include_archived=true", &context.ann).await.ok();
    assert!(all["agent_roles"][0]["archived_at"].is_string());
    let body = json!({ "role_name": "worker" });
    context.post("/v1/workspaces", &context.ann, body.clone()).await.refused(ErrorCode::RoleArchived);
    post(format!("{role_path}/unarchive")).await.refused(ErrorCode::ProviderArchived);
    post(format!("{provider_path}/unarchive")).await.ok();
    post(format!("{provider_path}/unarchive")).await.refused(ErrorCode::NotArchived);
    assert_eq!(post(format!("{role_path}/unarchive")).await.ok()["status"], "unarchived");
    context.post("/v1/workspaces", &context.ann, body).await.ok();
}

#[tokio::test]
async fn a_provider_that_a_running_workspace_keeps_is_not_archived_though_its_role_has_another_now() {
    let context = Context::new().await;
    let role = context.role().await;
    let archive = async |provider: &Value| {
        let path = format!("/v1/providers/{}/archive", provider.as_str().unwrap());
        context.post(&path, &context.owner, json!({})).await
    };
    let workspace = context.ready(&context.ann).await;
    let other = json!({ "name": "other", "kind": "anthropic", "domain": "other.test" });
    let other = context.post("/v1/providers", &context.owner, other).await.ok();
    let role_path = format!("/v1/agent-roles/{}", role["id"].as_str().unwrap());
    context.patch(&role_path, &context.owner, json!({ "provider_id": other["id"] })).await.ok();
    let details = archive(&role["provider_id"]).await.refused(ErrorCode::WorkspacesActive);
    assert_eq!(details["workspaces"], 1);
    // Its role would be archived with it.
    let details = archive(&other["id"]).await.refused(ErrorCode::WorkspacesActive);
    assert_eq!(details["workspaces"], 1);
    context.post(&format!("{role_path}/stop-workspaces"), &context.owner, json!({})).await.ok();
    context.happen(&workspace, freehold_model::workspace::Event::PodGone).await;
    assert_eq!(archive(&role["provider_id"]).await.ok()["cascaded_roles"], 0);
    assert_eq!(archive(&other["id"]).await.ok()["cascaded_roles"], 1);
}

#[tokio::test]
async fn a_refused_change_leaves_nothing_and_a_change_leaves_one_row() {
    let context = Context::new().await;
    let role = context.role().await;
    let rows = async || {
        let count = context.app.store().read(context.organization, |tx| tx.audit_last_seq()).await;
        count.map_err(|error: freehold_store::Error| error).unwrap()
    };
    let before = rows().await;
    let path = format!("/v1/agent-roles/{}", role["id"].as_str().unwrap());
    context
        .patch(&path, &context.owner, json!({ "capabilities": "{" }))
        .await
        .refused(ErrorCode::ValidationError);
    assert_eq!(rows().await, before);
    context.patch(&path, &context.owner, json!({ "model": "m-2" })).await.ok();
    assert_eq!(rows().await, before + 1);
    assert_eq!(context.get(&path, &context.ann).await.ok()["model"], Value::from("m-2"));
}
