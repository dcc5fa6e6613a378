//! Commands that people run in workspaces.

use freehold_access::Actor;
use freehold_model::{WorkspaceId, audit::EventType, workspace::agent_expected};
use futures::StreamExt;
use serde_json::json;

use crate::{
    App, Error,
    audit::{Cause, workspace_row},
    error::Fields,
    now,
    ports::{ExecRequest, ExecStream},
    workspace::writable,
};

/// Commands of one caller that run at a time. Each may hold about 1 MiB of output that its caller does not read.
pub const EXECS_PER_CALLER_MAX: usize = 64;
/// Characters of a command that its audit row keeps.
const COMMAND_CHARS_KEPT: usize = 1000;

impl App {
    /// Runs a command in a workspace. That it was asked for is in the audit log before it runs.
    ///
    /// # Errors
    /// When there is no such workspace, the caller may not, too many of its commands run already, the workspace is not
    /// running, or its agent does not answer.
    pub async fn workspace_exec(
        &self,
        actor: &Actor,
        id: WorkspaceId,
        request: ExecRequest,
    ) -> Result<ExecStream, Error> {
        check(&request)?;
        let seat = self.inner.execs.take(actor)?;
        let caller = actor.clone();
        let command: String = request.command.join(" ").chars().take(COMMAND_CHARS_KEPT).collect();
        let directory = request.working_directory.clone();
        let workspace = self
            .store()
            .write(actor.organization(), move |tx| {
                let workspace = writable(tx, &caller, id)?.into_inner();
                agent_expected(workspace.phase)?;
                let detail = json!({ "command": command, "working_directory": directory });
                let cause = Cause::caller(&caller);
                let row =
                    workspace_row(tx, &workspace, &cause, EventType::WorkspaceExec, Some(detail), now())?;
                tx.audit_add(&row)?;
                Ok::<_, Error>(workspace)
            })
            .await?;
        let events = self.ports().agent.exec(&workspace, request).await?;
        // The place is given back with the stream.
        Ok(events.inspect(move |_| _ = &seat).boxed())
    }
}

fn check(request: &ExecRequest) -> Result<(), Error> {
    let mut fields = Fields::default();
    let nul = request.command.iter().any(|argument| argument.contains('\0'));
    fields.refuse(nul, "command", "an argument cannot hold a NUL character");
    fields.refuse(request.command.first().is_none_or(String::is_empty), "command", "names no program");
    fields.refuse(
        request.working_directory.contains('\0'),
        "working_directory",
        "cannot hold a NUL character",
    );
    fields.check()
}
