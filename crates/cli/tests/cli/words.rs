//! What the command line says where something is not as it was meant.

use axum::{
    Json, Router,
    routing::{get, patch, post},
};
use freehold_cli::exit;
use serde_json::json;

use crate::support::{ID, role, serve};

#[tokio::test]
async fn capabilities_that_name_what_is_not_there_are_taken_with_a_warning() {
    let listed = async || {
        Json(json!({"secrets": [{"name": "stripe-key", "created_by_user_id": null,
        "updated_by_user_id": null, "created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z"}]}))
    };
    let router = Router::new()
        .route("/v1/agent-roles/{id}", patch(async || Json(role())))
        .route("/v1/secrets", get(listed))
        .route("/v1/credentials", get(async || Json(json!({"credentials": []}))));
    let person = serve(router).await;
    let caps = person.home.path().join("caps.yaml");
    let text = "- {name: pay, type: http, allow: [{domains: [pay.test], methods: [GET]}], transforms: [{name: key, \
        auth: {credential: main}, headers: {set: {x-a: 'secrets[\"stripe-kye\"]', x-b: 'secrets[\"stripe-key\"]'}}}]}";
    std::fs::write(&caps, text).unwrap();
    let update =
        ["role", "update", &format!("agent_{ID}"), "-o", "json", "--capabilities", caps.to_str().unwrap()];
    let ran = person.runs(&update).await;
    assert_eq!(ran.code, exit::OK, "{}", ran.err);
    assert!(ran.out.starts_with('{') && !ran.out.contains("warning"), "{}", ran.out);
    let warnings: Vec<&str> = ran.err.lines().collect();
    assert_eq!(
        warnings,
        [
            "warning: no credential is named `main`: requests that need it are denied (auth_unavailable); \
             `freehold credential create` makes one",
            "warning: no secret is named `stripe-kye`: requests that need it are denied (auth_unavailable); \
             did you mean `stripe-key`?",
        ]
    );
}

#[tokio::test]
async fn a_credential_of_a_provider_that_is_almost_known_is_made_with_a_warning() {
    let made = async |Json(body): Json<serde_json::Value>| {
        Json(json!({"id": format!("cred_{ID}"), "org_id": format!("org_{ID}"), "name": "main",
            "provider": body["provider"], "kind": "api_key", "scopes": [], "provider_config": {}, "durable_ref": "x",
            "allow_user_override": false, "status": "active", "created_at": "2026-01-01T00:00:00Z",
            "updated_at": "2026-01-01T00:00:00Z"}))
    };
    let mut person = serve(Router::new().route("/v1/credentials", post(made))).await;
    for (provider, warned) in
        [("anthropc", true), ("anthropic", false), ("gitlab", false), ("our-own-service", false)]
    {
        person.stdin = b"sk-secret\n".to_vec();
        let ran =
            person.runs(&["credential", "create", "main", "--provider", provider, "--kind", "api_key"]).await;
        assert_eq!(ran.code, exit::OK, "{}", ran.err);
        assert_eq!(ran.err.contains("did you mean `anthropic`?"), warned, "{provider} {}", ran.err);
    }
}

#[tokio::test]
async fn the_review_of_access_has_reason_and_capability_in_columns_of_their_own() {
    let entry = |decision: &str, reason: &str, capability: Option<&str>| {
        let mut entry = json!({"destination": "api.test", "method": "GET", "path": "/", "decision": decision,
            "reason": reason, "count": 2, "last_seen": "2026-01-01T00:00:00Z"});
        if let Some(capability) = capability {
            entry["capability_name"] = capability.into();
        }
        entry
    };
    let review = json!({"entries": [entry("allow", "rule_matched", Some("api")), entry("deny", "domain_not_allowed", None)]});
    let router = Router::new().route("/v1/agent-roles/{id}/access-review", get(async move || Json(review)));
    let ran = serve(router).await.runs(&["audit", "review", &format!("agent_{ID}")]).await;
    assert_eq!(ran.code, exit::OK, "{}", ran.err);
    let rows: Vec<Vec<&str>> = ran.out.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[1][3..6], ["allow", "rule_matched", "api"], "{}", ran.out);
    assert_eq!(rows[2][3..6], ["deny", "domain_not_allowed", "-"], "{}", ran.out);
}
