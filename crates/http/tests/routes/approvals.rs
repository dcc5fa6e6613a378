//! `/v1/approvals`.

use std::time::Duration;

use freehold_api::error::ErrorCode;
use freehold_app::fleet::{Asked, End, Fleet, Settings};
use freehold_model::{
    ApprovalId, Timestamp, WorkspaceId,
    approval::{Abandonment, Origin, Question, Reason, RuleRef, Shown, Status},
};
use serde_json::{Value, json};

use crate::context::{Context, names};

/// How long anything may take that is waited for.
const PATIENCE: Duration = Duration::from_secs(20);

/// The side of the server that holds requests.
fn fleet(context: &Context, store: &freehold_store::Store) -> Fleet {
    Fleet::new(store.clone(), context.app.uploads(), Settings::default())
}

fn question(context: &Context, workspace: &str, rule: &str) -> Question {
    let now = Timestamp::now();
    let shown = Shown {
        method: "POST".into(),
        destination: "api.test".into(),
        path: "/issues".into(),
        query: Vec::new(),
        headers: Vec::new(),
        body: None,
        trailers: Vec::new(),
        is_cut: false,
    };
    Question {
        id: ApprovalId::from_uuid(uuid::Uuid::now_v7()),
        organization_id: context.organization,
        workspace_id: workspace.parse::<WorkspaceId>().unwrap(),
        task_id: None,
        reason: Reason::ApprovalRequired,
        rule: RuleRef { origin: Origin::Role, capability: "github".into(), rule: rule.into() },
        policy_digest: "sha256:1".into(),
        shown,
        created_at: now,
        expires_at: now + Duration::from_secs(600),
    }
}

/// A held request of a workspace of this caller: the fleet that holds it, and the approval.
pub async fn held(context: &Context, workspace: &str) -> (Fleet, ApprovalId) {
    let fleet = fleet(context, context.app.store());
    let question = question(context, workspace, "issues");
    let id = question.id;
    assert_eq!(fleet.approval_ask(question).await.unwrap(), Asked::Waits);
    (fleet, id)
}

async fn decided(context: &Context, fleet: &Fleet, id: ApprovalId) -> Status {
    let waited = tokio::time::timeout(PATIENCE, fleet.approval_decided(context.organization, id)).await;
    waited.unwrap().unwrap().status
}

pub fn soon() -> String {
    (Timestamp::now() + Duration::from_secs(3_600)).to_string()
}

async fn rows(context: &Context, workspace: &str, event_type: &str) -> Vec<Value> {
    let path = format!("/v1/workspaces/{workspace}/activity?event_type={event_type}");
    context.get(&path, &context.owner).await.ok()["events"].as_array().unwrap().clone()
}

#[tokio::test]
async fn a_held_request_is_listed_seen_and_approved_once_by_a_person() {
    let context = Context::new().await;
    context.role().await;
    let workspace = context.ready(&context.ann).await;
    let (fleet, id) = held(&context, &workspace).await;
    let path = format!("/v1/approvals/{id}");
    let seen = context.get(&path, &context.ann).await.ok();
    assert_eq!(
        names(&seen),
        ["created_at", "expires_at", "id", "org_id", "reason", "request", "rule", "status", "workspace_id"]
    );
    assert_eq!(seen["rule"], json!({"origin": "role", "capability": "github", "name": "issues"}));
    let pending = context.get("/v1/approvals?status=pending", &context.ann).await.ok();
    assert_eq!(pending["approvals"], json!([seen]));
    let of = format!("/v1/approvals?workspace_id={workspace}&limit=1");
    assert_eq!(context.get(&of, &context.owner).await.ok()["approvals"], json!([seen]));
    assert_eq!(context.get("/v1/approvals?status=denied", &context.ann).await.ok()["approvals"], json!([]));
    let requested = rows(&context, &workspace, "approval_requested").await;
    assert_eq!(
        (requested.len(), &requested[0]["detail"]["approval_id"], &requested[0]["path"]),
        (1, &seen["id"], &json!("/issues"))
    );

    let body = json!({ "decision": "approve", "comment": "looks right" });
    let approved = context.post(&path, &context.ann, body.clone()).await.ok();
    assert_eq!((&approved["status"], &approved["scope"]), (&json!("approved"), &json!("once")));
    assert_eq!(decided(&context, &fleet, id).await, Status::Approved);
    context.post(&path, &context.ann, body).await.refused(ErrorCode::InvalidState);
    context.delete(&path, &context.ann).await.refused(ErrorCode::InvalidState);
    let row = &rows(&context, &workspace, "approval_decided").await[0];
    assert_eq!((&row["user_id"], &row["detail"]["status"]), (&approved["decided_by"], &json!("approved")));
    assert_eq!(row["detail"]["comment"], "looks right");
}

#[tokio::test]
async fn a_denial_and_the_end_of_the_time_are_final() {
    let context = Context::new().await;
    context.role().await;
    let workspace = context.ready(&context.ann).await;
    let (fleet, id) = held(&context, &workspace).await;
    let path = format!("/v1/approvals/{id}");
    let denied = context.post(&path, &context.owner, json!({ "decision": "deny" })).await.ok();
    assert_eq!((&denied["status"], denied.get("scope")), (&json!("denied"), None));
    // Whose time is over meanwhile learns that it was decided.
    let ended = fleet.approval_end(context.organization, id, End::Expired).await.unwrap().unwrap();
    assert_eq!(ended.status, Status::Denied);

    let (fleet, id) = held(&context, &workspace).await;
    let ended = fleet.approval_end(context.organization, id, End::Expired).await.unwrap().unwrap();
    assert_eq!(ended.status, Status::Expired);
    let path = format!("/v1/approvals/{id}");
    context
        .post(&path, &context.owner, json!({ "decision": "approve" }))
        .await
        .refused(ErrorCode::InvalidState);
}

#[tokio::test]
async fn what_is_late_is_refused_before_whoever_holds_it_says_so() {
    let context = Context::new().await;
    context.role().await;
    let workspace = context.ready(&context.ann).await;
    let fleet = fleet(&context, context.app.store());
    let question = Question { expires_at: Timestamp::now(), ..question(&context, &workspace, "issues") };
    let path = format!("/v1/approvals/{}", question.id);
    fleet.approval_ask(question).await.unwrap();
    context
        .post(&path, &context.ann, json!({ "decision": "approve" }))
        .await
        .refused(ErrorCode::InvalidState);
}

#[tokio::test]
async fn only_a_person_who_may_write_the_workspace_decides() {
    let context = Context::new().await;
    context.role().await;
    let workspace = context.ready(&context.ann).await;
    let (_, id) = held(&context, &workspace).await;
    let path = format!("/v1/approvals/{id}");
    let approve = json!({ "decision": "approve" });
    context.post(&path, &context.bob, approve.clone()).await.refused(ErrorCode::WorkspaceNotVisible);
    context.get(&path, &context.bob).await.refused(ErrorCode::WorkspaceNotVisible);
    assert_eq!(context.get("/v1/approvals", &context.bob).await.ok()["approvals"], json!([]));
    for permissions in ["full_access", "submit_observe", "read_only"] {
        let (_, key) = context.key(permissions).await;
        context.post(&path, &key, approve.clone()).await.refused(ErrorCode::PermissionDenied);
        context.get(&path, &key).await.ok();
    }
    let foreigner = context.foreigner().await;
    context.get(&path, &foreigner).await.refused(ErrorCode::ApprovalNotFound);
    context.post(&path, &foreigner, approve).await.refused(ErrorCode::ApprovalNotFound);
    context.delete(&path, &foreigner).await.refused(ErrorCode::ApprovalNotFound);
    assert_eq!(context.get(&path, &context.ann).await.ok()["status"], "pending");
}

#[tokio::test]
async fn an_approval_for_the_rule_stands_until_its_time_and_lets_go_who_waits_for_the_same() {
    let context = Context::new().await;
    context.role().await;
    let workspace = context.ready(&context.ann).await;
    let (fleet, id) = held(&context, &workspace).await;
    let (_, same) = held(&context, &workspace).await;
    let other = question(&context, &workspace, "pulls");
    let other_id = other.id;
    fleet.approval_ask(other).await.unwrap();

    let path = format!("/v1/approvals/{id}");
    let body = json!({ "decision": "approve", "scope": "rule", "until": soon() });
    assert_eq!(context.post(&path, &context.ann, body).await.ok()["scope"], "rule");
    assert_eq!(decided(&context, &fleet, same).await, Status::Approved);
    let status = |id| format!("/v1/approvals/{id}");
    assert_eq!(context.get(&status(same), &context.ann).await.ok()["scope"], "once");
    assert_eq!(context.get(&status(other_id), &context.ann).await.ok()["status"], "pending");

    // The next of that rule is not asked; of another policy it is.
    let next = question(&context, &workspace, "issues");
    assert_eq!(fleet.approval_ask(next).await.unwrap(), Asked::Stands(id));
    let changed = Question { policy_digest: "sha256:2".into(), ..question(&context, &workspace, "issues") };
    assert_eq!(fleet.approval_ask(changed).await.unwrap(), Asked::Waits);
    let workspace_id = workspace.parse().unwrap();
    let look = fleet.look(workspace_id).await.unwrap().unwrap();
    assert_eq!(look.standing.iter().map(|one| one.id).collect::<Vec<_>>(), [id]);

    assert_eq!(context.delete(&path, &context.ann).await.ok()["status"], "revoked");
    assert_eq!(context.delete(&path, &context.ann).await.ok()["status"], "revoked");
    assert!(fleet.look(workspace_id).await.unwrap().unwrap().standing.is_empty());
    let asks = question(&context, &workspace, "issues");
    assert_eq!(fleet.approval_ask(asks).await.unwrap(), Asked::Waits);
    assert_eq!(rows(&context, &workspace, "approval_revoked").await.len(), 1);
}

#[tokio::test]
async fn scope_and_time_belong_together() {
    let context = Context::new().await;
    context.role().await;
    let workspace = context.ready(&context.ann).await;
    let (_, id) = held(&context, &workspace).await;
    let path = format!("/v1/approvals/{id}");
    let far = (Timestamp::now() + Duration::from_secs(8 * 24 * 3_600)).to_string();
    for (body, fields) in [
        (json!({ "decision": "approve", "scope": "rule" }), vec!["until"]),
        (json!({ "decision": "approve", "scope": "once", "until": soon() }), vec!["until"]),
        (json!({ "decision": "approve", "until": soon() }), vec!["until"]),
        (json!({ "decision": "approve", "scope": "rule", "until": far }), vec!["until"]),
        (json!({ "decision": "approve", "scope": "rule", "until": "2020-01-01T00:00:00Z" }), vec!["until"]),
        (json!({ "decision": "deny", "scope": "once" }), vec!["scope"]),
        (json!({ "decision": "maybe" }), vec!["decision"]),
        (json!({ "decision": "deny", "why": "x" }), vec!["why"]),
    ] {
        context.post(&path, &context.ann, body).await.refused_fields(&fields);
    }
}

#[tokio::test]
async fn a_decision_sent_again_with_its_key_is_answered_as_the_first() {
    let context = Context::new().await;
    context.role().await;
    let workspace = context.ready(&context.ann).await;
    let (_, id) = held(&context, &workspace).await;
    let send = || {
        let request = context.request(reqwest::Method::POST, &format!("/v1/approvals/{id}"), &context.ann);
        context.send(request.header("idempotency-key", "k").json(&json!({ "decision": "deny" })))
    };
    let first = send().await.ok();
    let again = send().await;
    assert_eq!(again.headers["idempotency-replayed"], "true");
    assert_eq!(again.ok(), first);
}

#[tokio::test]
async fn a_decision_reaches_whoever_holds_the_request_on_another_server() {
    let context = Context::new().await;
    context.role().await;
    let workspace = context.ready(&context.ann).await;
    // SQLite tells other processes nothing: there it is found by looking again.
    let store = freehold_store::Store::open(&context.store_options).unwrap();
    let fleet = fleet(&context, &store);
    let question = question(&context, &workspace, "issues");
    let id = question.id;
    fleet.approval_ask(question).await.unwrap();
    let waits = {
        let (fleet, organization) = (fleet.clone(), context.organization);
        tokio::spawn(async move { fleet.approval_decided(organization, id).await.unwrap().status })
    };
    let path = format!("/v1/approvals/{id}");
    context.post(&path, &context.ann, json!({ "decision": "approve" })).await.ok();
    assert_eq!(tokio::time::timeout(PATIENCE, waits).await.unwrap().unwrap(), Status::Approved);
    store.close().await;
}

#[tokio::test]
async fn a_start_ends_every_hold_of_the_server_before() {
    let context = Context::new().await;
    context.role().await;
    let workspace = context.ready(&context.ann).await;
    let (fleet, id) = held(&context, &workspace).await;
    assert_eq!(fleet.approvals_abandon_all().await.unwrap(), 1);
    assert_eq!(fleet.approvals_abandon_all().await.unwrap(), 0);
    let seen = context.get(&format!("/v1/approvals/{id}"), &context.ann).await.ok();
    assert_eq!((&seen["status"], &seen["abandonment"]), (&json!("abandoned"), &json!("server_restarted")));
    let row = &rows(&context, &workspace, "approval_decided").await[0];
    assert_eq!(row["detail"]["abandonment"], "server_restarted");
    let gone = End::Abandoned(Abandonment::ClientGone);
    let nobody = ApprovalId::from_uuid(uuid::Uuid::now_v7());
    assert!(fleet.approval_end(context.organization, nobody, gone).await.unwrap().is_none());
}

#[tokio::test]
async fn of_a_workspace_the_last_approvals_are_kept_and_those_that_stand() {
    let context = Context::new().await;
    context.role().await;
    let workspace = context.ready(&context.ann).await;
    let (fleet, standing) = held(&context, &workspace).await;
    let path = format!("/v1/approvals/{standing}");
    let body = json!({ "decision": "approve", "scope": "rule", "until": soon() });
    context.post(&path, &context.ann, body).await.ok();
    let mut ids = Vec::new();
    for _ in 0..205 {
        let question = question(&context, &workspace, "pulls");
        ids.push(question.id);
        fleet.approval_ask(question).await.unwrap();
        fleet.approval_end(context.organization, ids[ids.len() - 1], End::Expired).await.unwrap();
    }
    let listed = context.get("/v1/approvals", &context.ann).await.ok();
    let listed: Vec<&str> =
        listed["approvals"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap()).collect();
    assert_eq!(listed.len(), 201);
    assert_eq!(listed.last(), Some(&standing.to_string().as_str()));
    assert_eq!(listed[0], ids[ids.len() - 1].to_string());
}
