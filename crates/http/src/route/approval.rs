//! Approvals.

use axum::response::Response;
use freehold_api::{
    approval::{ApprovalDecide, ApprovalDecision, ApprovalListQuery},
    error::ErrorCode,
    service::StatusAnswer,
};
use freehold_app::{ApprovalFilter, approval::Decision};
use freehold_model::{ApprovalId, approval::Approval};

use crate::{
    call::{Call, Handler},
    error::Failure,
    list, wire,
};

pub(super) const HANDLERS: &[(&str, Handler)] = &[
    ("approval_list", |call| Box::pin(approval_list(call))),
    ("approval_view", |call| Box::pin(approval_view(call))),
    ("approval_decide", |call| Box::pin(approval_decide(call))),
    ("approval_revoke", |call| Box::pin(approval_revoke(call))),
];

fn id(call: &Call) -> Result<ApprovalId, Failure> {
    call.id("id", ErrorCode::ApprovalNotFound)
}

fn render(approval: &Approval) -> Vec<u8> {
    wire::bytes(&wire::approval(approval.clone()))
}

async fn approval_list(mut call: Call) -> Result<Response, Failure> {
    let query: ApprovalListQuery = call.query()?;
    let filter =
        ApprovalFilter { workspace: query.workspace_id, status: query.status, ..ApprovalFilter::default() };
    let shape =
        list::Shape { field: Some("approvals"), place: |one: &Approval| one.id, wire: wire::approval };
    list::respond(&call, shape, query.limit, query.cursor.as_deref(), move |app, actor, page| {
        let filter = filter.clone();
        async move { app.approval_list(&actor, filter, page).await }
    })
    .await
}

async fn approval_view(call: Call) -> Result<Response, Failure> {
    let approval = call.app().approval_view(call.actor()?, id(&call)?).await?;
    call.json(&wire::approval(approval))
}

async fn approval_decide(mut call: Call) -> Result<Response, Failure> {
    let once = call.once(render)?;
    let fields: ApprovalDecide = call.fields()?;
    let decision = Decision {
        approve: fields.decision == ApprovalDecision::Approve,
        scope: fields.scope,
        until: fields.until,
        comment: fields.comment,
    };
    let outcome = call.app().approval_decide(call.actor()?, id(&call)?, decision, once).await?;
    Ok(call.outcome(outcome, render))
}

async fn approval_revoke(call: Call) -> Result<Response, Failure> {
    call.app().approval_revoke(call.actor()?, id(&call)?).await?;
    call.json(&StatusAnswer { status: "revoked".to_owned() })
}
