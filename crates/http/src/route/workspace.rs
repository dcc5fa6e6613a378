//! Workspaces.

use axum::{body::Body, response::Response};
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use freehold_api::{
    budget::BudgetList,
    error::ErrorCode,
    limits::EXEC_TIMEOUT_SECONDS_DEFAULT,
    service::{StatusAnswer, Stopping},
    workspace::{ExecLine, OutputStream, WorkspaceCreate, WorkspaceExec, WorkspaceListQuery},
};
use freehold_app::{
    Error,
    ports::{self, AgentError, ExecEvent, ExecRequest},
    workspace::WorkspaceNew,
};
use freehold_model::{WorkspaceId, workspace::Workspace};
use futures::{StreamExt, stream};

use crate::{
    call::{Call, Handler},
    error::Failure,
    list, wire,
};

/// Where a command runs when the request names no directory.
const WORKING_DIRECTORY: &str = "/workspace";

pub(super) const HANDLERS: &[(&str, Handler)] = &[
    ("workspace_list", |call| Box::pin(workspace_list(call))),
    ("workspace_create", |call| Box::pin(workspace_create(call))),
    ("workspace_view", |call| Box::pin(workspace_view(call))),
    ("workspace_delete", |call| Box::pin(workspace_delete(call))),
    ("workspace_budget_list", |call| Box::pin(workspace_budget_list(call))),
    ("workspace_session_view", |call| Box::pin(workspace_session_view(call))),
    ("workspace_stop", |call| Box::pin(workspace_stop(call))),
    ("workspace_stop_all", |call| Box::pin(workspace_stop_all(call))),
    ("workspace_archive", |call| Box::pin(workspace_archive(call))),
    ("workspace_unarchive", |call| Box::pin(workspace_unarchive(call))),
    ("workspace_exec", |call| Box::pin(workspace_exec(call))),
];

pub(super) fn id(call: &Call) -> Result<WorkspaceId, Failure> {
    call.id("id", ErrorCode::WorkspaceNotFound)
}

fn render(workspace: &Workspace) -> Vec<u8> {
    wire::bytes(&wire::workspace(workspace.clone()))
}

fn status(call: &Call, status: impl ToString) -> Result<Response, Failure> {
    call.json(&StatusAnswer { status: status.to_string() })
}

async fn workspace_list(mut call: Call) -> Result<Response, Failure> {
    let query: WorkspaceListQuery = call.query()?;
    let (archived, role) = (query.include_archived.unwrap_or(false), query.role_name);
    let shape = list::Shape {
        field: Some("workspaces"),
        place: |workspace: &Workspace| workspace.id,
        wire: wire::workspace,
    };
    list::respond(&call, shape, query.limit, query.cursor.as_deref(), move |app, actor, page| {
        let role = role.clone();
        async move { app.workspace_list(&actor, archived, role, page).await }
    })
    .await
}

async fn workspace_create(mut call: Call) -> Result<Response, Failure> {
    let once = call.once(render)?;
    let fields: WorkspaceCreate = call.fields()?;
    let new = WorkspaceNew {
        role_id: fields.role_id,
        role_name: fields.role_name,
        environment: fields.environment,
    };
    let outcome = call.app().workspace_create(call.actor()?, new, once).await?;
    Ok(call.outcome(outcome, render))
}

async fn workspace_view(call: Call) -> Result<Response, Failure> {
    let workspace = call.app().workspace_view(call.actor()?, id(&call)?).await?;
    call.json(&wire::workspace(workspace))
}

async fn workspace_delete(call: Call) -> Result<Response, Failure> {
    call.app().workspace_delete(call.actor()?, id(&call)?).await?;
    status(&call, "deleted")
}

async fn workspace_budget_list(call: Call) -> Result<Response, Failure> {
    let budgets = call.app().workspace_budget_list(call.actor()?, id(&call)?).await?;
    call.json(&BudgetList { budgets: budgets.into_iter().map(wire::budget).collect() })
}

async fn workspace_session_view(call: Call) -> Result<Response, Failure> {
    let view = call.app().workspace_session_view(call.actor()?, id(&call)?).await?;
    call.json(&view)
}

async fn workspace_stop(call: Call) -> Result<Response, Failure> {
    let phase = call.app().workspace_stop(call.actor()?, id(&call)?).await?;
    status(&call, phase)
}

async fn workspace_stop_all(call: Call) -> Result<Response, Failure> {
    let stopping = call.app().workspace_stop_all(call.actor()?).await?;
    call.json(&Stopping { stopping })
}

async fn workspace_archive(call: Call) -> Result<Response, Failure> {
    call.app().workspace_archive(call.actor()?, id(&call)?).await?;
    status(&call, "archived")
}

async fn workspace_unarchive(call: Call) -> Result<Response, Failure> {
    call.app().workspace_unarchive(call.actor()?, id(&call)?).await?;
    status(&call, "unarchived")
}

async fn workspace_exec(mut call: Call) -> Result<Response, Failure> {
    let fields: WorkspaceExec = call.fields()?;
    let request = ExecRequest {
        command: fields.command,
        timeout_seconds: fields.timeout_seconds.unwrap_or(EXEC_TIMEOUT_SECONDS_DEFAULT),
        working_directory: fields.working_directory.unwrap_or_else(|| WORKING_DIRECTORY.to_owned()),
    };
    let events = call.app().workspace_exec(call.actor()?, id(&call)?, request).await?;
    let request_id = call.request_id.clone();
    let lines = stream::unfold(Some((events, call.revoked())), move |state| {
        let request_id = request_id.clone();
        async move {
            let (mut events, mut revoked) = state?;
            let (line, rest) = tokio::select! {
                biased;
                () = &mut revoked => (ExecLine::Failed { error: revocation().body(&request_id).error }, None),
                event = events.next() => (exec_line(event?, &request_id), Some((events, revoked))),
            };
            let mut line = wire::bytes(&line);
            line.push(b'\n');
            Some((Ok::<_, std::convert::Infallible>(Bytes::from(line)), rest))
        }
    });
    Ok(call.answer("application/x-ndjson", Body::from_stream(lines)))
}

/// Why a command ends whose caller's secret was revoked.
fn revocation() -> Failure {
    Failure::new(ErrorCode::Unauthorized, "the credential was revoked while the command ran")
}

fn exec_line(event: Result<ExecEvent, AgentError>, request_id: &str) -> ExecLine {
    match event {
        Ok(ExecEvent::Output { stream, data }) => ExecLine::Output {
            stream: match stream {
                ports::OutputStream::Stdout => OutputStream::Stdout,
                ports::OutputStream::Stderr => OutputStream::Stderr,
            },
            data_base64: BASE64_STANDARD.encode(data),
        },
        Ok(ExecEvent::Ended { exit_code, timed_out }) => ExecLine::Ended { exit_code, timed_out },
        Err(error) => ExecLine::Failed { error: Failure::from(Error::Agent(error)).body(request_id).error },
    }
}
