//! Requests that wait for a person, with the real agent, server and command line.

use std::{fs, process::Command, time::Duration};

use freehold_client::{
    ActivityScope,
    api::approval::{Approval, ApprovalListQuery},
};
use freehold_model::{
    approval::{Abandonment, Scope, Status},
    task,
};
use futures::StreamExt as _;
use serde_json::Value;

use crate::support::World;

const SCENARIO: &str = include_str!("scenarios/fetches.yaml");

const ASKS: &str = "
- name: facts
  type: http
  allow:
    - name: fact
      domains: [facts.freehold.test]
      methods: [GET]
      approval: required
";

/// The approval that waits, the first or another than `before`.
async fn waiting(world: &World, before: Option<&Approval>) -> Approval {
    let pending = ApprovalListQuery { status: Some(Status::Pending), ..ApprovalListQuery::default() };
    world
        .until("a request is held", async || {
            let list = world.client.approval_list(&pending).await.ok()?.into_value().approvals;
            list.into_iter().find(|one| before.is_none_or(|before| before.id != one.id))
        })
        .await
}

/// Runs a verb as the owner; answers what it wrote.
fn freehold(world: &World, words: &[&str]) -> String {
    let key = fs::read_to_string(world.data().join("owner.key")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_freehold"));
    let output = command
        .args(words)
        .env("FREEHOLD_URL", &world.url)
        .env("FREEHOLD_API_KEY", key.trim())
        .output()
        .unwrap();
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Rows of the decisions about requests for the fact.
async fn decisions(world: &World, workspace: freehold_model::WorkspaceId) -> Vec<Value> {
    let is_fetch = |row: &Value| {
        row["destination"] == "facts.freehold.test"
            && row["event_type"] == "policy_decision"
            && row["policy_type"] == "http"
    };
    world.audit(workspace).await.into_iter().filter(is_fetch).collect()
}

#[tokio::test]
async fn an_agents_request_waits_is_shown_and_goes_on_and_what_stands_asks_no_more() {
    let world = World::start(SCENARIO).await;
    let role = world.role(ASKS).await;
    let task = world.task(&role, "fetch twice").await;
    let approval = waiting(&world, None).await;
    assert_eq!((approval.workspace_id, approval.task_id), (task.workspace_id, Some(task.task_id)));
    let id = approval.id.to_string();
    let shown = freehold(&world, &["approvals", "show", &id]);
    assert!(shown.contains("GET facts.freehold.test/v1/fact") && shown.contains("first: 1"), "{shown}");
    assert!(!shown.contains("canary") && shown.contains("api_key: [not shown: text of "), "{shown}");
    assert!(decisions(&world, task.workspace_id).await.is_empty());

    let said = freehold(&world, &["approvals", "approve", &id, "--until", "1h", "--comment", "for the test"]);
    assert!(said.contains("approved until"), "{said}");
    world.task_phase(task.workspace_id, task.task_id, task::Phase::Completed).await;
    let rows = world.until("both requests have their rows", async || {
        let rows = decisions(&world, task.workspace_id).await;
        (rows.len() == 2).then_some(rows)
    });
    for row in rows.await {
        assert_eq!((&row["decision"], &row["detail"]["approval_id"]), (&"allow".into(), &id.as_str().into()));
    }
    let all = world.client.approval_list(&ApprovalListQuery::default()).await.unwrap();
    assert_eq!((all.approvals.len(), all.approvals[0].scope), (1, Some(Scope::Rule)));
    let revoked = freehold(&world, &["approvals", "revoke", &id]);
    assert!(revoked.contains("revoked"), "{revoked}");
}

#[tokio::test]
async fn a_request_beyond_its_budget_waits_for_a_person_goes_on_and_is_counted() {
    let world = World::start(SCENARIO).await;
    let counted = "  budgets: {calls: {unit: requests, per: workspace, limit: 1, on_limit: ask}}\n";
    let role = world.role(&format!("{}{counted}", ASKS.replace("      approval: required\n", ""))).await;
    let task = world.task(&role, "fetch twice").await;
    let approval = waiting(&world, None).await;
    let shown = serde_json::to_value(&approval).unwrap();
    assert_eq!(
        (&shown["reason"], &shown["request"]["path"]),
        (&"budget_exceeded".into(), &"/v1/fact".into())
    );
    let said = freehold(&world, &["approvals", "approve", &approval.id.to_string()]);
    assert!(said.contains("approved"), "{said}");
    world.task_phase(task.workspace_id, task.task_id, task::Phase::Completed).await;
    let rows = world.until("both requests have their rows", async || {
        let rows = decisions(&world, task.workspace_id).await;
        (rows.len() == 2).then_some(rows)
    });
    assert!(rows.await.iter().all(|row| row["decision"] == "allow"));
    let budgets = world.client.workspace_budget_list(task.workspace_id).await.unwrap().into_value().budgets;
    assert_eq!((budgets[0].used.as_u64(), budgets[0].limit.as_u64()), (Some(2), Some(1)));
}

#[tokio::test]
async fn a_request_whose_client_went_away_is_recorded_and_the_activity_stream_tells_of_it() {
    let world = World::start(SCENARIO).await;
    let role = world.role(ASKS).await;
    let workspace = world.workspace(&role).await.id;
    let mut stream = world.client.activity_stream(ActivityScope::Workspace(workspace), None).await.unwrap();
    let mut told = async |event_type: &str| loop {
        let next = tokio::time::timeout(Duration::from_secs(60), stream.next()).await.expect(event_type);
        let row: Value = serde_json::from_str(&next.unwrap().unwrap().text).unwrap();
        if row["event_type"] == event_type {
            break row;
        }
    };
    let url = "https://facts.freehold.test/v1/fact?token=canary";
    let asks = format!("curl -s -o /dev/null {url} & echo $! > /workspace/client");
    world.sh(workspace, &format!("({asks}) > /dev/null 2>&1")).await;
    let requested = told("approval_requested").await;
    let approval = waiting(&world, None).await;
    assert_eq!(requested["detail"]["approval_id"], approval.id.to_string());
    assert!(!requested.to_string().contains("canary"), "{requested}");

    world.sh(workspace, "kill $(cat /workspace/client)").await;
    let ended = told("approval_decided").await;
    assert_eq!(ended["detail"]["abandonment"], "client_gone", "{ended}");
    let seen = world.client.approval_view(approval.id).await.unwrap().into_value();
    assert_eq!((seen.status, seen.abandonment), (Status::Abandoned, Some(Abandonment::ClientGone)));
    let rows = world.until("the request has its row", async || {
        let rows = decisions(&world, workspace).await;
        (!rows.is_empty()).then_some(rows)
    });
    let rows = rows.await;
    assert_eq!(
        (rows.len(), &rows[0]["reason"], &rows[0]["detail"]["approval_id"]),
        (1, &"approval_abandoned".into(), &approval.id.to_string().into())
    );
}

#[tokio::test]
async fn a_request_that_was_held_when_the_server_was_killed_or_stopped_is_recorded_and_asked_anew() {
    let mut world = World::start(SCENARIO).await;
    let role = world.role(ASKS).await;
    let task = world.task(&role, "fetch twice").await;
    let killed = waiting(&world, None).await;
    world.kill_server();
    world.start_server().await;
    let seen = world.client.approval_view(killed.id).await.unwrap().into_value();
    assert_eq!((seen.status, seen.abandonment), (Status::Abandoned, Some(Abandonment::ServerRestarted)));

    // The agent sees its request fail, and goes on with the next.
    let stopped = waiting(&world, Some(&killed)).await;
    assert!(world.stop_server().await.success());
    world.start_server().await;
    let seen = world.client.approval_view(stopped.id).await.unwrap().into_value();
    assert_eq!((seen.status, seen.abandonment), (Status::Abandoned, Some(Abandonment::ServerStopped)));
    let rows = world.audit(task.workspace_id).await;
    let ended: Vec<&Value> = rows.iter().filter(|row| row["event_type"] == "approval_decided").collect();
    let why: Vec<&Value> = ended.iter().map(|row| &row["detail"]["abandonment"]).collect();
    assert_eq!(why, ["server_restarted", "server_stopped"]);
    let denied = decisions(&world, task.workspace_id).await;
    assert!(denied.iter().any(|row| row["reason"] == "approval_abandoned"), "{denied:#?}");
    world.task_phase(task.workspace_id, task.task_id, task::Phase::Completed).await;
}

#[tokio::test]
async fn a_denied_request_is_told_to_the_agent_and_nobody_in_a_pod_reaches_the_control_plane() {
    let world = World::start(SCENARIO).await;
    let role = world.role(ASKS).await;
    let task = world.task(&role, "fetch twice").await;
    let first = waiting(&world, None).await;
    freehold(&world, &["approvals", "deny", &first.id.to_string(), "--comment", "no"]);
    let second = waiting(&world, Some(&first)).await;
    freehold(&world, &["approvals", "deny", &second.id.to_string()]);
    world.task_phase(task.workspace_id, task.task_id, task::Phase::Completed).await;
    let rows = world.audit(task.workspace_id).await;
    let told = rows.iter().filter(|row| row["event_type"] == "tool_completed");
    let told: Vec<String> = told.map(|row| row["detail"]["result"].to_string()).collect();
    assert!(told.len() == 2 && told.iter().all(|result| result.contains("approval_denied")), "{told:?}");

    // The same, where the allowed name is a gateway's to the control plane.
    let urls = "server.public_url = \"https://freehold.test\"\nserver.other_urls = [\"https://facts.freehold.test\"]";
    let world = World::with(SCENARIO, urls).await;
    let role = world.role(&ASKS.replace("approval: required", "")).await;
    let task = world.task(&role, "fetch twice").await;
    world.task_phase(task.workspace_id, task.task_id, task::Phase::Completed).await;
    let rows = world.until("the denial has its row", async || {
        let rows = decisions(&world, task.workspace_id).await;
        (!rows.is_empty()).then_some(rows)
    });
    assert_eq!(rows.await[0]["reason"], "control_plane_forbidden");
}
