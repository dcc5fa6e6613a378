//! What the command line says where something is not as it was meant.

use std::sync::{Arc, Mutex};

use axum::{
    Json, Router,
    http::Uri,
    routing::{get, patch, post},
};
use clap::Parser;
use freehold_cli::exit;
use serde_json::json;

use crate::support::{Freehold, ID, error, role, serve};

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

#[tokio::test]
async fn a_name_that_is_taken_is_answered_with_how_its_thing_is_replaced() {
    let mut person = serve(Router::new().fallback(async || error(409, "name_taken"))).await;
    person.stdin = b"value".to_vec();
    for (verb, says) in [
        (&["secret", "create", "stripe"][..], "`freehold secret update stripe` gives it another value"),
        (
            &["credential", "create", "main", "--provider", "openai"],
            "a credential is not changed: `freehold credential delete main`, then create it anew",
        ),
        (&["provider", "create", "p", "--kind", "openai", "--domain", "d.test"], "choose another name"),
    ] {
        let ran = person.runs(verb).await;
        assert!(ran.code == exit::CONFLICT && ran.err.contains(&format!("hint: {says}")), "{}", ran.err);
    }
}

#[tokio::test]
async fn a_key_of_two_lines_is_not_sent_and_an_export_leaves_a_file_as_it_is() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let paths = Arc::clone(&asked);
    let router = Router::new().fallback(async move |uri: Uri| {
        paths.lock().unwrap().push(uri.path().to_owned());
        error(500, "internal_error")
    });
    let mut person = serve(router).await;
    person.stdin = b"pt_one\npt_two\n".to_vec();
    let ran = person.runs(&["login"]).await;
    assert!(
        ran.code == exit::USAGE && ran.err.contains("a key is a single line, and this has 2"),
        "{}",
        ran.err
    );
    let file = person.home.path().join("audit.jsonl");
    std::fs::write(&file, "kept").unwrap();
    let ran = person.runs(&["audit", "export", "--to", file.to_str().unwrap()]).await;
    assert!(
        ran.code == exit::USAGE && ran.err.contains("was left as it is\nhint: name another file"),
        "{}",
        ran.err
    );
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "kept");
    assert_eq!(*asked.lock().unwrap(), Vec::<String>::new());
}

#[test]
fn a_provider_s_kind_is_said_to_stay() {
    let said = Freehold::try_parse_from(["freehold", "provider", "update", "claude", "--kind", "openai"])
        .unwrap_err();
    assert_eq!(said.exit_code(), i32::from(exit::USAGE));
    let said = said.to_string();
    assert!(said.contains("the kind of a provider cannot be changed; create another provider"), "{said}");
    let help =
        Freehold::try_parse_from(["freehold", "provider", "update", "--help"]).unwrap_err().to_string();
    assert!(!help.contains("--kind"), "{help}");
}
