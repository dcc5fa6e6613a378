//! `/v1/tasks` and `/v1/workspaces/{id}/tasks`.

use std::sync::atomic::Ordering;

use freehold_api::error::ErrorCode;
use freehold_model::{task::Event, workspace};
use reqwest::{
    Method,
    multipart::{Form, Part},
};
use serde_json::{Value, json};

use crate::context::{Context, names};

#[tokio::test]
async fn a_task_with_a_new_workspace_is_both_or_neither() {
    let context = Context::new().await;
    context.role().await;
    let submitted =
        context.post("/v1/tasks", &context.ann, json!({ "role_name": "worker", "description": "do" })).await;
    assert_eq!(submitted.status, 202);
    let submitted = submitted.ok();
    assert_eq!(names(&submitted), ["status", "task_id", "workspace_id"]);
    assert_eq!(submitted["status"], "submitted");
    let path = format!("/v1/workspaces/{}/tasks", submitted["workspace_id"].as_str().unwrap());
    assert_eq!(context.get(&path, &context.ann).await.ok()[0]["id"], submitted["task_id"]);
    let refused = json!({ "role_name": "nobody", "description": "do" });
    context.post("/v1/tasks", &context.ann, refused).await.refused(ErrorCode::RoleNotFound);
    let neither = json!({ "description": "do" });
    context.post("/v1/tasks", &context.ann, neither).await.refused_fields(&["role_name"]);
    let listed = context.get("/v1/workspaces", &context.ann).await.ok();
    assert_eq!(listed["workspaces"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn tasks_are_a_bare_array_newest_first() {
    let context = Context::new().await;
    context.role().await;
    let workspace = context.ready(&context.ann).await;
    for description in ["one", "two", "three"] {
        context.task(&workspace, &context.ann, description).await;
    }
    let path = format!("/v1/workspaces/{workspace}/tasks");
    let tasks = context.get(&path, &context.ann).await.ok();
    let descriptions: Vec<&Value> =
        tasks.as_array().unwrap().iter().map(|task| &task["description"]).collect();
    assert_eq!(descriptions, ["three", "two", "one"]);
    assert_eq!(names(&tasks[0]), ["created_at", "description", "id", "org_id", "status", "workspace_id"]);
    let page = context
        .get(&format!("{path}?limit=1&cursor={}", tasks[0]["id"].as_str().unwrap()), &context.ann)
        .await;
    assert_eq!(page.ok(), json!([tasks[1]]));
}

#[tokio::test]
async fn an_ended_task_has_its_duration() {
    let context = Context::new().await;
    context.role().await;
    let workspace = context.ready(&context.ann).await;
    let task = context.task(&workspace, &context.ann, "x").await;
    context.advance(&task, Event::Failed).await;
    let seen = context.get(&format!("/v1/workspaces/{workspace}/tasks/{task}"), &context.ann).await.ok();
    assert_eq!((&seen["status"], &seen["duration_seconds"]), (&json!("failed"), &json!(0.0)));
    assert_eq!(seen["completed_at"], seen["created_at"]);
}

#[tokio::test]
async fn a_task_is_found_in_its_own_workspace_only() {
    let context = Context::new().await;
    context.role().await;
    let (one, other) = (context.ready(&context.ann).await, context.ready(&context.ann).await);
    let task = context.task(&one, &context.ann, "x").await;
    let path = format!("/v1/workspaces/{other}/tasks/{task}");
    context.get(&path, &context.ann).await.refused(ErrorCode::TaskNotFound);
}

#[tokio::test]
async fn nobody_but_a_key_submits_to_a_workspace_of_another() {
    let context = Context::new().await;
    context.role().await;
    let workspace = context.ready(&context.ann).await;
    let path = format!("/v1/workspaces/{workspace}/tasks");
    let body = json!({ "description": "x" });
    context.post(&path, &context.owner, body.clone()).await.refused(ErrorCode::WorkspaceNotVisible);
    let (_, key) = context.key("submit_observe").await;
    context.post(&path, &key, body.clone()).await.ok();
    let (_, key) = context.key("read_only").await;
    context.post(&path, &key, body).await.refused(ErrorCode::PermissionDenied);
}

#[tokio::test]
async fn a_workspace_without_an_agent_to_come_takes_no_tasks() {
    let context = Context::new().await;
    context.role().await;
    let stopped = context.ready(&context.ann).await;
    context.happen(&stopped, workspace::Event::StopAsked).await;
    let failed = context.workspace(&context.ann).await;
    context.happen(&failed, workspace::Event::GaveUp).await;
    for (workspace, code) in [(stopped, ErrorCode::WorkspaceStopped), (failed, ErrorCode::WorkspaceFailed)] {
        let path = format!("/v1/workspaces/{workspace}/tasks");
        context.post(&path, &context.ann, json!({ "description": "x" })).await.refused(code);
    }
}

#[tokio::test]
async fn two_hundred_cancels_at_once_are_one() {
    let context = Context::new().await;
    context.role().await;
    let workspace = context.ready(&context.ann).await;
    let path = format!("/v1/workspaces/{workspace}/task/cancel");
    let none = context.post(&path, &context.ann, json!({})).await;
    assert_eq!((none.status, none.text.as_str()), (202, ""));
    assert_eq!(context.agent.cancels.load(Ordering::Relaxed), 0);
    let task = context.task(&workspace, &context.ann, "x").await;
    context.advance(&task, Event::HandedOver).await;
    let all = (0..200).map(|_| context.post(&path, &context.ann, json!({})));
    for reply in futures::future::join_all(all).await {
        assert_eq!(reply.status, 202);
    }
    let query = format!("/v1/workspaces/{workspace}/activity?event_type=task_cancel_requested");
    let rows = context.get(&query, &context.ann).await.ok();
    assert_eq!(rows["events"].as_array().unwrap().len(), 1);
    *context.agent.unreachable.lock().unwrap() = true;
    context.post(&path, &context.ann, json!({})).await.refused(ErrorCode::AgentUnreachable);
    context.happen(&workspace, workspace::Event::StopAsked).await;
    context.post(&path, &context.ann, json!({})).await.refused(ErrorCode::WorkspaceStopped);
}

#[tokio::test]
async fn a_reset_closes_the_session_and_opens_another() {
    let context = Context::new().await;
    context.role().await;
    let workspace = context.ready(&context.ann).await;
    context.task(&workspace, &context.ann, "a").await;
    let body = json!({ "description": "b", "reset_session": true });
    context.post(&format!("/v1/workspaces/{workspace}/tasks"), &context.ann, body).await.ok();
    let sessions = context.get(&format!("/v1/sessions?workspace_id={workspace}"), &context.ann).await.ok();
    assert_eq!(sessions["total"], 2);
    assert_eq!(sessions["data"][0]["finished_at"], Value::Null);
    assert!(sessions["data"][1]["finished_at"].is_string());
}

#[tokio::test]
async fn a_repeated_request_with_its_key_is_answered_and_not_done_again() {
    let context = Context::new().await;
    context.role().await;
    let send = async |key: &str, description: &str| {
        let body = json!({ "role_name": "worker", "description": description });
        let request = context.request(Method::POST, "/v1/tasks", &context.ann).header("Idempotency-Key", key);
        context.send(request.json(&body)).await
    };
    let (first, second) = (send("k1", "x").await, send("k1", "x").await);
    assert_eq!(second.headers["idempotency-replayed"], "true");
    assert_eq!(first.ok(), second.ok());
    send("k1", "y").await.refused(ErrorCode::IdempotencyConflict);
    send("k2", "x").await.ok();
    let listed = context.get("/v1/workspaces", &context.ann).await.ok();
    assert_eq!(listed["workspaces"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn files_come_with_a_task_and_go_with_its_workspace() {
    let context = Context::new().await;
    context.role().await;
    let form = Form::new()
        .text("description", "read these")
        .text("role_name", "worker")
        .text("max_continuations", "7")
        .part("file", Part::bytes(vec![7; 300_000]).file_name("data.bin"))
        .part("file", Part::text("hello").file_name("ä ö.txt"));
    let request = context.request(Method::POST, "/v1/tasks", &context.ann).multipart(form);
    let submitted = context.send(request).await.ok();
    let mut sizes: Vec<usize> = context.uploads().values().map(Vec::len).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [5, 300_000]);
    let workspace = submitted["workspace_id"].as_str().unwrap();
    context.happen(workspace, workspace::Event::StopAsked).await;
    context.happen(workspace, workspace::Event::PodGone).await;
    context.post(&format!("/v1/workspaces/{workspace}/archive"), &context.ann, json!({})).await.ok();
    context.delete(&format!("/v1/workspaces/{workspace}"), &context.ann).await.ok();
    assert!(context.uploads().is_empty());
}

#[tokio::test]
async fn a_form_that_is_refused_leaves_no_file() {
    let context = Context::new().await;
    context.role().await;
    let good = || Form::new().text("description", "x").text("role_name", "worker");
    let file = |name: &str| Part::text("content").file_name(name.to_owned());
    let mut refused = Vec::new();
    for name in ["../../etc/passwd", "/etc/passwd", "..", "a/b", "a\\..\\b"] {
        refused.push((good().part("file", file(name)), vec!["file"]));
    }
    refused.push((good().part("file", Part::text("nameless")), vec!["file"]));
    refused.push((good().part("file", file("a")).part("file", file("a")), vec!["file"]));
    refused.push((good().part("file", file("a")).text("wrong", "x"), vec!["wrong"]));
    refused
        .push((good().part("file", file("a")).text("max_continuations", "many"), vec!["max_continuations"]));
    for (form, fields) in refused {
        let request = context.request(Method::POST, "/v1/tasks", &context.ann).multipart(form);
        context.send(request).await.refused_fields(&fields);
    }
    let many = (0..33).fold(good(), |form, n| form.part("file", file(&format!("{n}"))));
    let request = context.request(Method::POST, "/v1/tasks", &context.ann).multipart(many);
    context.send(request).await.refused(ErrorCode::PayloadTooLarge);
    assert!(context.uploads().is_empty());
}

#[tokio::test]
async fn the_head_of_a_part_has_a_limit() {
    let context = Context::new().await;
    context.role().await;
    let endless =
        format!("--x\r\nContent-Disposition: form-data; name=\"file\"\r\nX: {}", "a".repeat(8 << 20));
    for body in ["a".repeat(8 << 20), endless] {
        let request = context.request(Method::POST, "/v1/tasks", &context.ann);
        let request = request.header("content-type", "multipart/form-data; boundary=x").body(body);
        let answer = context.send(request).await;
        assert!(answer.text.contains("the head of a part"), "{}", answer.text);
        answer.refused_fields(&["body"]);
    }
}

#[tokio::test]
async fn a_file_that_is_too_large_is_told_before_all_of_it_came() {
    let context = Context::new().await;
    context.role().await;
    let large = vec![0; 65 * 1024 * 1024];
    let form = Form::new().part("file", Part::bytes(large).file_name("large"));
    let request = context.request(Method::POST, "/v1/tasks", &context.ann).multipart(form);
    context.send(request).await.refused(ErrorCode::PayloadTooLarge);
    assert!(context.uploads().is_empty());
}
