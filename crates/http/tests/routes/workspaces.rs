//! `/v1/workspaces`.

use freehold_api::error::ErrorCode;
use freehold_app::exec::EXECS_PER_CALLER_MAX;
use freehold_model::workspace::Event;
use reqwest::Method;
use serde_json::{Value, json};

use crate::context::{Context, names};

const UNKNOWN: &str = "ws_01933b5a000070008000000000000001";

#[tokio::test]
async fn a_new_workspace_has_exactly_the_fields_of_the_contract() {
    let context = Context::new().await;
    let role = context.role().await;
    let made = context.post("/v1/workspaces", &context.ann, json!({ "role_id": role["id"] })).await;
    assert_eq!(made.status, 201);
    let made = made.ok();
    let path = format!("/v1/workspaces/{}", made["id"].as_str().unwrap());
    let seen = context.get(&path, &context.ann).await.ok();
    assert_eq!(made, seen);
    assert_eq!(
        names(&seen),
        [
            "archived_at",
            "created_at",
            "created_by_user_id",
            "environment",
            "id",
            "org_id",
            "pack_status",
            "role_id",
            "status",
            "updated_at"
        ]
    );
    assert_eq!(seen["status"], "provisioning");
    assert_eq!(seen["pack_status"], "unknown");
    assert_eq!(seen["archived_at"], Value::Null);
    assert_eq!(seen["environment"], "development");
    context.happen(seen["id"].as_str().unwrap(), Event::AgentReady).await;
    let seen = context.get(&path, &context.ann).await.ok();
    assert_eq!((&seen["status"], &seen["pack_status"]), (&json!("idle"), &json!("current")));
}

#[tokio::test]
async fn own_narrows_lists_and_refuses_views() {
    let context = Context::new().await;
    context.role().await;
    let (of_ann, of_bob) = (context.workspace(&context.ann).await, context.workspace(&context.bob).await);
    let ids = |list: Value| -> Vec<String> {
        list["workspaces"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["id"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(ids(context.get("/v1/workspaces", &context.ann).await.ok()), [of_ann.as_str()]);
    assert_eq!(
        ids(context.get("/v1/workspaces", &context.owner).await.ok()),
        [of_bob.as_str(), of_ann.as_str()]
    );
    for path in ["", "/session", "/budgets", "/tasks", "/activity", "/audit", "/activity/stream"] {
        let path = format!("/v1/workspaces/{of_bob}{path}");
        context.get(&path, &context.ann).await.refused(ErrorCode::WorkspaceNotVisible);
    }
    for verb in ["stop", "archive", "unarchive", "task/cancel"] {
        let path = format!("/v1/workspaces/{of_bob}/{verb}");
        context.post(&path, &context.ann, json!({})).await.refused(ErrorCode::WorkspaceNotVisible);
    }
    let path = format!("/v1/workspaces/{of_bob}");
    context.delete(&path, &context.ann).await.refused(ErrorCode::WorkspaceNotVisible);
}

#[tokio::test]
async fn what_is_unknown_or_malformed_is_not_found() {
    let context = Context::new().await;
    for id in [UNKNOWN, "ws_01HZ", "x", "..%2f..", "%00", "task_01933b5a000070008000000000000001"] {
        let path = format!("/v1/workspaces/{id}");
        context.get(&path, &context.owner).await.refused(ErrorCode::WorkspaceNotFound);
    }
}

#[tokio::test]
async fn the_list_is_filtered_by_role_name_and_an_unknown_name_shows() {
    let context = Context::new().await;
    context.role().await;
    context.workspace(&context.ann).await;
    let listed = context.get("/v1/workspaces?role_name=worker", &context.owner).await.ok();
    assert_eq!(listed["workspaces"].as_array().unwrap().len(), 1);
    context.get("/v1/workspaces?role_name=wroker", &context.owner).await.refused(ErrorCode::RoleNotFound);
}

#[tokio::test]
async fn pages_and_the_whole_list_agree() {
    let context = Context::new().await;
    context.role().await;
    // More than one step of a streamed list.
    for _ in 0..300 {
        context.workspace(&context.ann).await;
    }
    let whole = context.get("/v1/workspaces", &context.ann).await.ok();
    let whole = whole["workspaces"].as_array().unwrap().clone();
    assert_eq!(whole.len(), 300);
    let (mut pages, mut query) = (Vec::new(), "limit=100".to_owned());
    for _ in 0..3 {
        let page = context.get(&format!("/v1/workspaces?{query}"), &context.ann).await.ok();
        pages.extend(page["workspaces"].as_array().unwrap().clone());
        query = format!("limit=100&cursor={}", page["cursor"].as_str().unwrap_or_default());
    }
    assert_eq!(query, "limit=100&cursor=", "the last page has no cursor");
    assert_eq!(pages, whole);
    context.get("/v1/workspaces?cursor=nonsense", &context.ann).await.refused(ErrorCode::InvalidCursor);
}

#[tokio::test]
async fn a_workspace_is_stopped_archived_unarchived_and_deleted() {
    let context = Context::new().await;
    context.role().await;
    let workspace = context.ready(&context.ann).await;
    let path = format!("/v1/workspaces/{workspace}");
    let verb = async |verb: &str| context.post(&format!("{path}/{verb}"), &context.ann, json!({})).await;
    verb("archive").await.refused(ErrorCode::InvalidState);
    verb("unarchive").await.refused(ErrorCode::NotArchived);
    let stopped = verb("stop").await;
    assert_eq!((stopped.status, stopped.ok()["status"].clone()), (202, json!("stopping")));
    context.happen(&workspace, Event::PodGone).await;
    assert_eq!(verb("stop").await.ok()["status"], "stopped");
    context.delete(&path, &context.ann).await.refused(ErrorCode::NotArchived);
    assert_eq!(verb("archive").await.ok()["status"], "archived");
    let listed = context.get("/v1/workspaces", &context.ann).await.ok();
    assert_eq!(listed["workspaces"], json!([]));
    let listed = context.get("/v1/workspaces?include_archived=true", &context.ann).await.ok();
    assert_eq!(listed["workspaces"][0]["status"], "stopped");
    assert!(listed["workspaces"][0]["archived_at"].is_string());
    let task = context.post(&format!("{path}/tasks"), &context.ann, json!({ "description": "x" })).await;
    task.refused(ErrorCode::WorkspaceArchived);
    assert_eq!(verb("unarchive").await.ok()["status"], "unarchived");
    verb("archive").await.ok();
    assert_eq!(context.delete(&path, &context.ann).await.ok()["status"], "deleted");
    context.get(&path, &context.ann).await.refused(ErrorCode::WorkspaceNotFound);
}

#[tokio::test]
async fn stopping_ends_the_tasks_of_the_workspace() {
    let context = Context::new().await;
    context.role().await;
    let workspace = context.ready(&context.ann).await;
    let (first, _) = (
        context.task(&workspace, &context.ann, "a").await,
        context.task(&workspace, &context.ann, "b").await,
    );
    context.advance(&first, freehold_model::task::Event::HandedOver).await;
    context.advance(&first, freehold_model::task::Event::Started).await;
    context.happen(&workspace, Event::TaskStarted).await;
    context.post(&format!("/v1/workspaces/{workspace}/stop"), &context.ann, json!({})).await.ok();
    let tasks = context.get(&format!("/v1/workspaces/{workspace}/tasks"), &context.ann).await.ok();
    for task in tasks.as_array().unwrap() {
        assert_eq!(
            (&task["status"], &task["reason"]),
            (&json!("cancelled"), &json!("the workspace was stopped"))
        );
    }
}

#[tokio::test]
async fn the_session_view_comes_from_the_agent_of_a_running_workspace_only() {
    let context = Context::new().await;
    context.role().await;
    let workspace = context.workspace(&context.ann).await;
    let path = format!("/v1/workspaces/{workspace}/session");
    context.get(&path, &context.ann).await.refused(ErrorCode::WorkspaceProvisioning);
    context.happen(&workspace, Event::AgentReady).await;
    assert_eq!(context.get(&path, &context.ann).await.ok()["simulated"], true);
    *context.agent.unreachable.lock().unwrap() = true;
    let refused = context.get(&path, &context.ann).await;
    assert_eq!(refused.status, 502);
    refused.refused(ErrorCode::AgentUnreachable);
    context.happen(&workspace, Event::StopAsked).await;
    context.get(&path, &context.ann).await.refused(ErrorCode::WorkspaceStopped);
    let failed = context.workspace(&context.ann).await;
    context.happen(&failed, Event::GaveUp).await;
    let path = format!("/v1/workspaces/{failed}/session");
    context.get(&path, &context.ann).await.refused(ErrorCode::WorkspaceFailed);
}

#[tokio::test]
async fn stopping_all_needs_the_unscoped_scope_and_counts_what_it_stops() {
    let context = Context::new().await;
    context.role().await;
    for _ in 0..3 {
        context.ready(&context.ann).await;
    }
    let refused = context.post("/v1/workspaces/stop-all", &context.ann, json!({})).await;
    assert_eq!(refused.refused(ErrorCode::PermissionDenied)["needed"], "workspace:write");
    assert_eq!(context.post("/v1/workspaces/stop-all", &context.owner, json!({})).await.ok()["stopping"], 3);
    assert_eq!(context.post("/v1/workspaces/stop-all", &context.owner, json!({})).await.ok()["stopping"], 0);
}

#[tokio::test]
async fn exec_streams_lines_and_leaves_an_audit_row() {
    let context = Context::new().await;
    context.role().await;
    let workspace = context.ready(&context.ann).await;
    let path = format!("/v1/workspaces/{workspace}/exec");
    let body = json!({ "command": ["echo", "hi"] });
    let reply = context.post(&path, &context.ann, body).await;
    assert_eq!(reply.headers["content-type"], "application/x-ndjson");
    let lines: Vec<Value> = reply.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0]["stream"], "stdout");
    assert_eq!(lines[1], json!({ "exit_code": 3, "timed_out": false }));
    let audit = context.get(&format!("/v1/workspaces/{workspace}/audit"), &context.ann).await.ok();
    assert_eq!(audit["events"][0]["event_type"], "workspace_exec");
    assert_eq!(audit["events"][0]["detail"]["command"], "echo hi");
    assert_eq!(audit["events"][0]["agent_role"], "worker");
    assert_eq!(audit["events"][0]["agent_provider"], "models");
    context.post(&path, &context.ann, json!({ "command": [] })).await.refused_fields(&["command"]);
}

#[tokio::test]
async fn a_command_ends_at_once_when_its_key_is_revoked() {
    let context = Context::new().await;
    context.role().await;
    let workspace = context.ready(&context.ann).await;
    let (id, key) = context.key("full_access").await;
    let request = context.request(Method::POST, &format!("/v1/workspaces/{workspace}/exec"), &key);
    let mut answer = request.json(&json!({ "command": ["sleep"] })).send().await.unwrap();
    let first = answer.chunk().await.unwrap().unwrap();
    assert!(first.starts_with(b"{\"stream\""), "{first:?}");
    context.delete(&format!("/v1/api-keys/{id}"), &context.owner).await.ok();
    let last: Value = serde_json::from_slice(&answer.chunk().await.unwrap().unwrap()).unwrap();
    assert_eq!(last["error"]["code"], "unauthorized");
    assert_eq!(answer.chunk().await.unwrap(), None);
}

#[tokio::test]
async fn one_caller_has_a_limit_of_commands_at_a_time_and_others_are_not_in_its_way() {
    let context = Context::new().await;
    context.role().await;
    let workspace = context.ready(&context.ann).await;
    let path = format!("/v1/workspaces/{workspace}/exec");
    let body = json!({ "command": ["sleep"] });
    let mut open = Vec::new();
    for _ in 0..EXECS_PER_CALLER_MAX {
        open.push(context.request(Method::POST, &path, &context.ann).json(&body).send().await.unwrap());
    }
    context.post(&path, &context.ann, body.clone()).await.refused(ErrorCode::TooManyRequests);
    let other = context.request(Method::POST, &path, &context.owner).json(&body).send().await.unwrap();
    assert_eq!(other.status(), 200);
}

#[tokio::test]
async fn what_belongs_to_another_organization_is_not_found() {
    let context = Context::new().await;
    let role = context.role().await;
    let workspace = context.ready(&context.ann).await;
    let task = context.task(&workspace, &context.ann, "x").await;
    let sessions = context.get("/v1/sessions", &context.ann).await.ok();
    let foreigner = context.foreigner().await;
    let workspace = format!("/v1/workspaces/{workspace}");
    for path in [
        "",
        "/session",
        "/budgets",
        "/tasks",
        "/activity",
        "/audit",
        "/activity/stream",
        &format!("/tasks/{task}"),
    ] {
        let reply = context.get(&format!("{workspace}{path}"), &foreigner).await;
        reply.refused(ErrorCode::WorkspaceNotFound);
    }
    for verb in ["stop", "archive", "unarchive", "task/cancel"] {
        let reply = context.post(&format!("{workspace}/{verb}"), &foreigner, json!({})).await;
        reply.refused(ErrorCode::WorkspaceNotFound);
    }
    let reply = context.post(&format!("{workspace}/tasks"), &foreigner, json!({ "description": "x" })).await;
    reply.refused(ErrorCode::WorkspaceNotFound);
    let id = |value: &Value| value.as_str().unwrap().to_owned();
    let path = format!("/v1/agent-roles/{}", id(&role["id"]));
    context.get(&path, &foreigner).await.refused(ErrorCode::RoleNotFound);
    let path = format!("/v1/providers/{}", id(&role["provider_id"]));
    context
        .patch(&path, &foreigner, json!({ "domain": "evil.test" }))
        .await
        .refused(ErrorCode::ProviderNotFound);
    let path = format!("/v1/sessions/{}", id(&sessions["data"][0]["id"]));
    context.get(&path, &foreigner).await.refused(ErrorCode::SessionNotFound);
    let body = json!({ "role_name": "worker" });
    context.post("/v1/workspaces", &foreigner, body).await.refused(ErrorCode::RoleNotFound);
    for (path, field) in [("workspaces", "workspaces"), ("providers", "providers"), ("sessions", "data")] {
        assert_eq!(context.get(&format!("/v1/{path}"), &foreigner).await.ok()[field], json!([]));
    }
}

#[tokio::test]
async fn a_workspace_s_budgets_are_those_of_its_provider_and_its_role() {
    let context = Context::new().await;
    let role = context.role().await;
    let workspace = context.workspace(&context.ann).await;
    let path = format!("/v1/workspaces/{workspace}/budgets");
    assert_eq!(context.get(&path, &context.ann).await.ok(), json!({ "budgets": [] }));
    let caps = |budgets: &str| {
        let rule = "allow: [{domains: [api.example.com], methods: [GET]}]";
        json!({ "capabilities": format!("- name: api\n  type: http\n  {rule}\n  budgets: {budgets}\n") })
    };
    let id = |field: &str| role[field].as_str().unwrap().to_owned();
    let provider = format!("/v1/providers/{}", id("provider_id"));
    let of_provider = caps(
        "{spend: {unit: usd, per: organization, window: 30d, limit: 25.50, warn_at: 20, on_limit: ask}}",
    );
    context.patch(&provider, &context.owner, of_provider).await.ok();
    let of_role = caps("{calls: {unit: requests, per: task, limit: 100}}");
    context.patch(&format!("/v1/agent-roles/{}", id("id")), &context.owner, of_role).await.ok();
    let mut list = context.get(&path, &context.ann).await.ok();
    let start = list["budgets"][0].as_object_mut().unwrap().remove("window_start").unwrap();
    let month = start.as_str().unwrap().parse::<freehold_model::Timestamp>().unwrap();
    assert_eq!(month.as_second() % (30 * 86_400), 0);
    assert_eq!(
        list["budgets"],
        json!([
            {
                "origin": "provider", "capability": "api", "name": "spend", "unit": "usd", "per": "organization",
                "subject": context.organization.to_string(), "window": "30d", "limit": 25.5, "used": 0,
                "remaining": 25.5, "warn_at": 20, "on_limit": "ask",
            },
            {
                // Without a task it is the workspace's.
                "origin": "role", "capability": "api", "name": "calls", "unit": "requests", "per": "task",
                "subject": workspace, "limit": 100, "used": 0, "remaining": 100, "on_limit": "deny",
            },
        ])
    );
}
