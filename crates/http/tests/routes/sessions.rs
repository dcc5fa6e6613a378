//! `/v1/sessions`, also under `/api`.

use freehold_api::error::ErrorCode;
use serde_json::{Value, json};

use crate::context::{Context, names};

#[tokio::test]
async fn a_session_has_every_field_of_the_contract() {
    let context = Context::new().await;
    let role = context.role().await;
    let workspace = context.workspace(&context.ann).await;
    let listed = context.get("/v1/sessions", &context.ann).await.ok();
    assert_eq!((&listed["total"], &listed["offset"], &listed["limit"]), (&json!(1), &json!(0), &json!(20)));
    let id = listed["data"][0]["id"].as_str().unwrap().to_owned();
    let session = context.get(&format!("/v1/sessions/{id}"), &context.ann).await.ok();
    assert_eq!(session, listed["data"][0]);
    assert_eq!(context.get(&format!("/api/v1/sessions/{id}"), &context.ann).await.ok(), session);
    assert_eq!(
        names(&session),
        [
            "agent_id",
            "capabilities",
            "created_at",
            "finished_at",
            "id",
            "model_id",
            "organization_id",
            "output_preview",
            "preview",
            "started_at",
            "status",
            "tags",
            "title",
            "updated_at",
            "usage",
            "workspace_id"
        ]
    );
    assert_eq!((&session["agent_id"], &session["workspace_id"]), (&role["id"], &json!(workspace)));
    assert_eq!((&session["status"], &session["usage"]), (&json!("started"), &Value::Null));
}

#[tokio::test]
async fn a_malformed_id_is_400_and_an_unknown_one_404_with_the_members_of_a_problem() {
    let context = Context::new().await;
    for id in ["x", "session_01933b5a00007000800000000000001", "ws_01933b5a000070008000000000000001"] {
        context.get(&format!("/v1/sessions/{id}"), &context.ann).await.refused(ErrorCode::InvalidId);
    }
    let path = "/api/v1/sessions/session_01933b5a000070008000000000000001";
    let reply = context.get(path, &context.ann).await;
    assert_eq!(reply.headers["content-type"], "application/problem+json");
    assert_eq!((&reply.json["status"], &reply.json["title"]), (&json!(404), &json!("Not Found")));
    assert_eq!(reply.json["code"], "session_not_found");
    assert_eq!(reply.json["detail"], reply.json["error"]["message"]);
    reply.refused(ErrorCode::SessionNotFound);
}

#[tokio::test]
async fn sessions_of_others_are_neither_listed_nor_seen() {
    let context = Context::new().await;
    context.role().await;
    context.workspace(&context.bob).await;
    assert_eq!(context.get("/v1/sessions", &context.ann).await.ok()["total"], 0);
    let listed = context.get("/v1/sessions", &context.owner).await.ok();
    let path = format!("/v1/sessions/{}", listed["data"][0]["id"].as_str().unwrap());
    context.get(&path, &context.ann).await.refused(ErrorCode::SessionNotFound);
}
