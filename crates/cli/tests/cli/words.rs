//! What the command line says where something is not as it was meant.

use axum::{
    Json, Router,
    routing::{get, patch},
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
    let text = r#"
- name: pay
  type: http
  allow: [{domains: [pay.test], methods: [GET]}]
  transforms:
    - name: key
      auth: {credential: main}
      headers: {set: {x-a: 'secrets["stripe-kye"]', x-b: 'secrets["stripe-key"]'}}
"#;
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
