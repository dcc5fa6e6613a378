//! What a member, whose scopes end in `:own`, is told of things that somebody else made.

use freehold_api::operations;
use serde_json::json;

use crate::context::Context;

/// Each operation on one workspace or session: the answer for another member's, and for one that is not there. Where the
/// contract documents `workspace_not_visible` they differ (an id has 74 random bits: who knows one was told); everywhere else
/// they are the same.
const GOLDEN: &str = "\
GET /v1/workspaces/{id}: 403 workspace_not_visible, 404 workspace_not_found
DELETE /v1/workspaces/{id}: 403 workspace_not_visible, 404 workspace_not_found
GET /v1/workspaces/{id}/session: 403 workspace_not_visible, 404 workspace_not_found
POST /v1/workspaces/{id}/stop: 403 workspace_not_visible, 404 workspace_not_found
POST /v1/workspaces/{id}/archive: 403 workspace_not_visible, 404 workspace_not_found
POST /v1/workspaces/{id}/unarchive: 403 workspace_not_visible, 404 workspace_not_found
POST /v1/workspaces/{id}/exec: 403 workspace_not_visible, 404 workspace_not_found
GET /v1/workspaces/{id}/budgets: 403 workspace_not_visible, 404 workspace_not_found
GET /v1/workspaces/{id}/tasks: 403 workspace_not_visible, 404 workspace_not_found
POST /v1/workspaces/{id}/tasks: 403 workspace_not_visible, 404 workspace_not_found
GET /v1/workspaces/{id}/tasks/{tid}: 403 workspace_not_visible, 404 workspace_not_found
POST /v1/workspaces/{id}/task/cancel: 403 workspace_not_visible, 404 workspace_not_found
GET /v1/sessions/{session_id}: 404 session_not_found, 404 session_not_found
GET /v1/workspaces/{id}/activity: 403 workspace_not_visible, 404 workspace_not_found
GET /v1/workspaces/{id}/activity/stream: 403 workspace_not_visible, 404 workspace_not_found
GET /v1/workspaces/{id}/audit: 403 workspace_not_visible, 404 workspace_not_found
";

#[tokio::test]
async fn what_a_member_is_told_of_another_one_s_things_is_the_golden_table() {
    let context = Context::new().await;
    context.role().await;
    let mut made = Vec::new();
    for key in [&context.ann, &context.bob] {
        let workspace = context.ready(key).await;
        let task = context.task(&workspace, key, "work").await;
        let listed = context.get("/v1/sessions", key).await.ok();
        made.push((workspace, task, listed["data"][0]["id"].as_str().unwrap().to_owned()));
    }
    let nobody = |prefix: &str| format!("{prefix}_01933b5a000070008000000000000001");
    let nothing = (nobody("ws"), nobody("task"), nobody("session"));
    for (key, own, other) in [(&context.ann, &made[0], &made[1]), (&context.bob, &made[1], &made[0])] {
        let mut table = String::new();
        for operation in operations() {
            let is_one = ["/workspaces/{id}", "{session_id}"].iter().any(|one| operation.path.contains(one));
            if !is_one {
                continue;
            }
            let mut answers = Vec::new();
            for (workspace, task, session) in [other, &nothing] {
                let path = operation.path.replace("{id}", workspace).replace("{tid}", task);
                let path = path.replace("{session_id}", session);
                let method = operation.method.as_str().parse().unwrap();
                let body = match operation.id {
                    "task_submit" => json!({ "description": "work" }),
                    "workspace_exec" => json!({ "command": ["true"] }),
                    _ => json!({}),
                };
                let reply = context.send(context.request(method, &path, key).json(&body)).await;
                answers.push(format!(
                    "{} {}",
                    reply.status,
                    reply.json["error"]["code"].as_str().unwrap_or("-")
                ));
            }
            table += &format!("{} {}: {}\n", operation.method.as_str(), operation.path, answers.join(", "));
        }
        assert_eq!(table, GOLDEN, "\n{table}");
        // One's own workspace tells nothing of another one's task either.
        for task in [&other.1, &nothing.1] {
            let reply = context.get(&format!("/v1/workspaces/{}/tasks/{task}", own.0), key).await;
            assert_eq!(reply.json["error"]["code"], "task_not_found");
        }
    }
}
