//! What becomes of pods: ready, lost, gone, failed to start.

use freehold_model::{
    Next, PodId, Timestamp,
    audit::{Actor, EventType},
    task,
    workspace::{self, Event, Workspace},
};
use freehold_store::{Error as StoreError, OrgTx};
use serde_json::json;
use uuid::Uuid;

use super::{
    FAILED_STARTS_MAX, Fleet, Look, Place, Ready,
    activity::{self, Names},
};
use crate::Error;

/// Moves a workspace as `model` says, with its row in the activity log. A denied event changes nothing.
pub(super) fn advance(
    rows: &mut OrgTx<'_>,
    workspace: &mut Workspace,
    event: Event,
) -> Result<(), StoreError> {
    let Ok(Next::Go(phase)) = workspace::next(workspace.phase, event) else { return Ok(()) };
    let from = std::mem::replace(&mut workspace.phase, phase);
    workspace.updated_at = Timestamp::now();
    rows.workspace_update(workspace)?;
    let names = Names::of(rows, workspace)?;
    let detail = json!({"from": from, "status": phase});
    let row = activity::row(
        workspace,
        &names,
        Actor::ControlPlane,
        EventType::WorkspaceStatusChanged,
        None,
        detail,
    );
    rows.audit_append(&row).map(drop)
}

/// The workspace, if this is the pod it wants or takes down.
fn of_pod(rows: &mut OrgTx<'_>, place: Place, pod: PodId) -> Result<Option<Workspace>, StoreError> {
    Ok(rows.workspace_view(place.workspace_id)?.filter(|workspace| workspace.pod_id == Some(pod)))
}

/// Wants a new pod in the place of one that cannot serve any more.
fn renew_pod(workspace: &mut Workspace) {
    workspace.pod_id = Some(PodId::from_uuid(Uuid::now_v7()));
    workspace.generation += 1;
}

impl Fleet {
    /// The agent of a pod introduced itself. `None` when the pod is not the one that is wanted.
    pub async fn agent_ready(&self, place: Place, pod: PodId) -> Result<Option<Ready>, Error> {
        let settings = self.settings;
        self.store
            .write(place.organization_id, move |rows| {
                let Some(mut workspace) = of_pod(rows, place, pod)? else { return Ok(None) };
                if !workspace::pod_wanted(workspace.phase) {
                    return Ok(None);
                }
                workspace.failed_starts = 0;
                advance(rows, &mut workspace, Event::AgentReady)?;
                let Look { workspace, role, provider, current_task, .. } = super::look(rows, workspace)?;
                let last_sequence = rows.session_last_sequence(workspace.session_id)?;
                let task = match current_task {
                    None => None,
                    Some(task) => Some(super::tasks::order(rows, task, &role, settings)?),
                };
                let environment = workspace.environment.unwrap_or_else(|| role.environment.to_string());
                let settings = super::Settings {
                    max_continuations: role.max_continuations.unwrap_or(settings.max_continuations),
                    max_context_tokens: role.max_context_tokens.unwrap_or(settings.max_context_tokens),
                    ..settings
                };
                let session_id = workspace.session_id;
                Ok(Some(Ready { role, provider, environment, settings, session_id, last_sequence, task }))
            })
            .await
    }

    /// A wanted pod is gone: another one is wanted, on the same files.
    pub async fn pod_lost(&self, place: Place, pod: PodId) -> Result<(), Error> {
        self.store
            .write(place.organization_id, move |rows| {
                let Some(mut workspace) = of_pod(rows, place, pod)? else { return Ok(()) };
                if workspace::pod_wanted(workspace.phase) {
                    renew_pod(&mut workspace);
                }
                advance(rows, &mut workspace, Event::PodLost)?;
                Ok(())
            })
            .await
    }

    /// A pod did not start, or its agent never came. After [`FAILED_STARTS_MAX`] in a row the workspace fails, and
    /// with it whatever waits for its agent.
    pub async fn start_failed(&self, place: Place, pod: PodId, reason: &str) -> Result<(), Error> {
        let reason = reason.to_owned();
        self.store
            .write(place.organization_id, move |rows| {
                let Some(mut workspace) = of_pod(rows, place, pod)? else { return Ok(()) };
                if workspace.phase != workspace::Phase::Provisioning {
                    return Ok(());
                }
                workspace.failed_starts += 1;
                workspace.updated_at = Timestamp::now();
                renew_pod(&mut workspace);
                if workspace.failed_starts < FAILED_STARTS_MAX {
                    return Ok(rows.workspace_update(&workspace)?);
                }
                advance(rows, &mut workspace, Event::GaveUp)?;
                let reason = format!("the workspace could not be started: {reason}");
                end_tasks(rows, &workspace, task::Event::Undeliverable, &reason)?;
                Ok(())
            })
            .await
    }

    /// The pod of a stopping workspace is gone. A task that was under way ends as cancelled; tasks that wait stay.
    pub async fn pod_gone(&self, place: Place) -> Result<(), Error> {
        self.store
            .write(place.organization_id, move |rows| {
                let Some(mut workspace) = rows.workspace_view(place.workspace_id)? else { return Ok(()) };
                if workspace.phase != workspace::Phase::Stopping {
                    return Ok(());
                }
                workspace.pod_id = None;
                advance(rows, &mut workspace, Event::PodGone)?;
                if let Some(task) = rows.task_current(workspace.id)? {
                    super::tasks::end(
                        rows,
                        &workspace,
                        task,
                        task::Event::Cancelled,
                        "the workspace was stopped",
                    )?;
                }
                Ok(())
            })
            .await
    }
}

/// Ends every task that has not ended.
fn end_tasks(
    rows: &mut OrgTx<'_>,
    workspace: &Workspace,
    event: task::Event,
    reason: &str,
) -> Result<(), StoreError> {
    if let Some(task) = rows.task_current(workspace.id)? {
        // A task that already ran was delivered.
        let event = if task.started_at.is_some() { task::Event::Failed } else { event };
        super::tasks::end(rows, workspace, task, event, reason)?;
    }
    while let Some(task) = rows.task_next_submitted(workspace.id)? {
        super::tasks::end(rows, workspace, task, event, reason)?;
    }
    Ok(())
}
